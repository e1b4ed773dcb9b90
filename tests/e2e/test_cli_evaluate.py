"""`danqing evaluate`: benchmarks, systems and judges by name, from plan to page, comparison and export."""

import json

import pytest

import danqing

TEXTS = {
    "text_prompts.jsonl": [("A sign that says 'HELLO WORLD'", ["HELLO WORLD"]), ("A note: 'go'", ["go"])],
    "text_prompts_zh.jsonl": [("一张写着“你好”的纸", ["你好"]), ("写着“再见”的牌子", ["再见"])],
}
NANO = "nano?steps=1&name=nano"
WORDS = ("--judge", "words=ocr", "--data", "data")


@pytest.fixture
def here(tmp_path):
    """A folder with the files of a benchmark, in the format of LongText-Bench."""
    place = tmp_path / "data" / "longtext"
    place.mkdir(parents=True)
    for name, texts in TEXTS.items():
        lines = [
            json.dumps({"prompt": prompt, "text": text, "category": "sign", "length": "short"})
            for prompt, text in texts
        ]
        (place / name).write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_from_plan_to_page_comparison_and_export(cli, here):
    plan = cli("evaluate", "run", "longtext", "--system", NANO, *WORDS, "--plan")
    assert plan.lines == [
        "LongText-Bench: nano, 4 answers wanted, 0 there, 4 to make",
        "LongText-Bench: no prompt, 4 answers wanted, 0 there, 4 to make",
    ]
    told = json.loads(
        cli("evaluate", "run", "longtext", "--system", NANO, *WORDS, "--plan", "--json").lines[0]
    )
    assert (told["benchmark"], told["system"], told["missing"], told["usd"]) == (
        "LongText-Bench",
        "nano",
        4,
        0.0,
    )

    done = cli(
        "evaluate", "run", "longtext", "--system", NANO, "--system", "published:Imagen 2", *WORDS, "--json"
    )
    assert done.code == 0
    report = json.loads(done.out)
    assert [row["name"] for row in report["rows"]] == ["longtext-en", "longtext-zh"]
    assert report["rows"][0]["cells"]["nano"]["judged"] == 2
    assert "Imagen 2: no published score was found on any benchmark of the table" in report["notes"]
    assert (here / "evaluation" / "report.html").is_file()
    again = cli("evaluate", "run", "longtext", "--system", NANO, *WORDS, "--plan")
    assert again.lines[0] == "LongText-Bench: nano, 4 answers wanted, 4 there, 0 to make"

    compared = cli("evaluate", "compare", "nano", "no prompt", "--folder", "evaluation")
    assert compared.lines[0] == "nano minus no prompt, on what both answered"
    assert "ranks: nano" in compared.out
    exported = cli("evaluate", "export", "evaluation", "-o", "pictures")
    assert exported.lines == ["4 pictures in pictures"]
    assert len(list((here / "pictures").glob("*.png"))) == 4

    frozen = cli(
        "evaluate", "run", "longtext", "--system", "frozen:pictures", *WORDS, "-o", "second", "--json"
    )
    cells = json.loads(frozen.out)["rows"][0]["cells"]
    assert cells["pictures"]["interval"] == report["rows"][0]["cells"]["nano"]["interval"]


def test_the_python_name_does_the_same(here, monkeypatch):
    monkeypatch.chdir(here)
    report = danqing.evaluate(
        "longtext", systems=[NANO], folder="python", judges=["words=ocr"], data="data", baselines=False
    )
    assert [row.cells["nano"].judged for row in report.rows] == [2, 2]
    assert report.commands == (
        "danqing.evaluate('longtext', systems=['nano?steps=1&name=nano'], folder='python', "
        "judges=['words=ocr'], data='data', baselines=False)",
    )


def test_benchmarks_are_listed_with_what_they_need(cli, here):
    lines = cli("evaluate", "list", "--data", "data").lines
    assert any(line.startswith("longtext") and line.endswith("; here") for line in lines)
    assert any("missing: danqing evaluate fetch geneval" in line for line in lines)
    rows = [json.loads(line) for line in cli("evaluate", "list", "--json", "--data", "data").lines]
    assert {row["name"]: row["here"] for row in rows}["longtext"]
    assert rows[0]["name"] == "world"


def test_files_of_a_user_are_taken_when_they_are_the_expected_ones(cli, here):
    done = cli("evaluate", "fetch", "longtext", "--from", "data/longtext", "--data", "mine")
    assert (done.code, done.out) == (2, "")
    assert "expected sha256" in done.err
    assert not (here / "mine" / "longtext" / "text_prompts.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("longtxt", "--system", "nano"), "did you mean longtext?"),
        (("longtext", "--system", "nano", "--data", "data"), "--judge words=MODEL"),
        (("longtext", "--system", "published:DALL·E 3", *WORDS), "expected a system that answers"),
        (("longtext", "--system", "published:Dall", *WORDS), "expected a system with published scores"),
        (("longtext", "--system", "openai:dall-e-3", *WORDS), "withdrawn by OpenAI"),
        (("longtext", "--system", "nano", "--judge", "ears=ocr"), "expected ROLE=NAME"),
        (("geneval", "--system", "nano", "--judge", "clip=pinned", "--data", "data"), "open-detector"),
    ],
)
def test_mistakes_are_told_in_one_line(cli, here, arguments, said):
    assert cli("evaluate", "run", *arguments).is_mistake(said)


def test_a_comparison_needs_an_evaluation(cli, here):
    assert cli("evaluate", "compare", "a", "b", "--folder", "data").is_mistake("run one first")
    assert cli("evaluate", "export", "data", "-o", "x").is_mistake("run one first")
