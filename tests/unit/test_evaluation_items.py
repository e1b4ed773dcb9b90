"""Items in clause form: stable names, a JSON round trip, and what is refused."""

import json

import pytest

from danqing.errors import DataError
from danqing.evaluation.items import Atom, Clause, Item

APPLE = Clause(concept="1F34E", count=2, colour="red", position=("left", 1), style="flat")
BOX = Clause(concept="1F4E6", position=("between", 0, 2))
ITEM = Item(
    row="relation",
    prompt="两个红苹果在箱子左边",
    language="zh",
    include=(APPLE, BOX, Clause(text="OPEN", background="blue")),
    exclude=(Clause(concept="1F436"),),
    readings=((Clause(concept="1F987"),), (Clause(concept="1F3CF"), Clause(background="green"))),
    tags={"length": "10"},
    cluster="scene 7",
)


def test_an_item_survives_json():
    assert Item.from_json(json.loads(json.dumps(ITEM.to_json()))) == ITEM
    asked = Item(row="dsg", prompt="a dog", details={"questions": [{"id": 1, "text": "Is there a dog?"}]})
    assert Item.from_json(json.loads(json.dumps(asked.to_json()))) == asked
    bare = Item(row="object", prompt="a dog")
    assert Item.from_json(json.loads(json.dumps(bare.to_json()))) == bare
    assert bare.cluster == "a dog"


def test_an_id_is_the_same_everywhere_and_changes_with_what_is_asked_or_judged():
    assert ITEM.id == "a6453b7cc113fdb5"
    data = ITEM.to_json()
    others = ({"prompt": "x"}, {"row": "x"}, {"exclude": []}, {"readings": []}, {"language": "en"})
    for other in (*others, {"details": {"captions": ["a dog"]}}):
        assert Item.from_json({**data, **other}).id != ITEM.id
    for same in ({"tags": {}}, {"cluster": "scene 8"}):
        assert Item.from_json({**data, **same}).id == ITEM.id


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({}, "clause with a fact"),
        ({"concept": "a", "count": 0}, "count of 1 or more"),
        ({"concept": "a", "position": ("near", 1)}, "expected a relation of left"),
        ({"concept": "a", "position": ("between", 1)}, "two for between"),
        ({"concept": "a", "position": ("left", 1, 2)}, "two for between"),
    ],
)
def test_a_wrong_clause_is_refused(facts, said):
    with pytest.raises(DataError, match=said):
        Clause(**facts)


def test_a_position_refers_to_another_clause_of_the_list():
    for index in (0, 2, -1):
        clauses = (Clause(concept="a", position=("left", index)), Clause(concept="b"))
        with pytest.raises(DataError, match="refers to another clause"):
            Item(row="relation", prompt="a", include=clauses)


def test_unknown_keys_and_empty_prompts_are_refused():
    with pytest.raises(DataError, match="unknown key 'color'; known: background, colour"):
        Clause.from_json({"color": "red"})
    with pytest.raises(DataError, match="a row and a prompt"):
        Item(row="object", prompt=" ")
    with pytest.raises(DataError, match="from 0 to 1"):
        Atom(name="object", value=1.5, wanted="a", seen="b")
