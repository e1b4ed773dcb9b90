"""Judges that look at pictures, through the real loaders, against direct calls of the library they use."""

import numpy as np
import pytest
import torch
import transformers as tf
from PIL import Image

from danqing.errors import CheckpointError, RequestError
from danqing.scoring.blip_vqa import COMPBENCH, BlipOptions, BlipVQA
from danqing.scoring.clip import Clip, clip_score
from danqing.scoring.depth import DepthModel
from danqing.scoring.open_detector import DetectorOptions, OpenDetector
from danqing.scoring.pretrained import Source, open_model
from tests.parity import tiny_judges as tiny

pytestmark = pytest.mark.parity
EVERYTHING = DetectorOptions(threshold=0.0, overlap=None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("judges")
    names = ("blip", "clip", "owl", "dino", "depth", "hybrid")
    return {name: getattr(tiny, name)(root / name) for name in names}


def source(folder) -> Source:
    return Source(place=str(folder), device="cpu")


def test_blip_asks_as_the_library_does_with_its_plain_beginning(folders):
    folder, picture = folders["blip"], tiny.picture()
    judge = BlipVQA(source(folder), BlipOptions(encoder_token=False))
    model = tf.BlipForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    pixels = tf.AutoImageProcessor.from_pretrained(folder, backend="pil")(picture, return_tensors="pt")
    begin = torch.tensor([[model.config.text_config.bos_token_id]])
    for question in ("red apple?", "is there a dog on the table?"):
        text = tokenizer(question, return_tensors="pt")
        inputs = {"input_ids": text.input_ids, "attention_mask": text.attention_mask, **pixels}
        decoded = []
        hook = model.text_decoder.register_forward_hook(lambda *a, to=decoded: to.append(a[2].logits))
        with torch.no_grad():
            model(**inputs, decoder_input_ids=begin)
        hook.remove()
        yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
        chances = decoded[0][0, 0].softmax(-1)
        expected = float(chances[yes] / (chances[yes] + chances[no]))
        assert judge.answer_probability(picture, question) == pytest.approx(expected, abs=1e-6)
        assert judge.answer_probability(picture, question, ("no", "yes")) == pytest.approx(1 - expected)
        with torch.no_grad():
            said = model.generate(**inputs, num_beams=3, do_sample=False, max_length=10, min_length=1)
        assert judge.ask(picture, question) == tokenizer.decode(said[0], skip_special_tokens=True).strip()


def test_blip_of_compbench_sees_480_pixels_begins_as_trained_and_keeps_four_digits(folders):
    folder, picture = folders["blip"], tiny.picture()
    judge = BlipVQA(source(folder), COMPBENCH)
    model = tf.BlipForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    images = tf.AutoImageProcessor.from_pretrained(folder, backend="pil", size={"height": 480, "width": 480})
    pixels = images(picture, return_tensors="pt").pixel_values
    assert pixels.shape[-2:] == (480, 480)
    text = tokenizer("red apple?", return_tensors="pt")
    text.input_ids[:, 0] = model.config.text_config.vocab_size - 1  # [ENC]
    with torch.no_grad():
        seen = model.vision_model(pixels, interpolate_pos_encoding=True)[0]
        states = model.text_encoder(
            input_ids=text.input_ids, attention_mask=text.attention_mask, encoder_hidden_states=seen
        )[0]
        begin = torch.tensor([[model.config.text_config.bos_token_id]])
        logits = model.text_decoder(input_ids=begin, encoder_hidden_states=states).logits[0, 0]
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    expected = torch.sigmoid(logits[yes] - logits[no]).item()
    found = judge.answer_probability(picture, "red apple?")
    assert found == pytest.approx(expected, abs=6e-5)
    assert found == round(found, 4)
    plain = BlipVQA(source(folder))
    assert plain.answer_probability(picture, "red apple?") != pytest.approx(found, abs=1e-4)
    assert plain.version != judge.version


def test_clip_is_the_librarys_cosine_and_a_class_the_mean_of_its_wordings(folders):
    folder, picture = folders["clip"], tiny.picture()
    judge = Clip(source(folder))
    model = tf.CLIPModel.from_pretrained(folder).eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    texts = ["a photo of a red apple", "two dogs", "a cat on the left"]
    pixels = tf.AutoImageProcessor.from_pretrained(folder, backend="pil")(picture, return_tensors="pt")
    with torch.no_grad():
        out = model(**pixels, **tokenizer(texts, padding=True, return_tensors="pt"))
    expected = (out.logits_per_image[0] / model.logit_scale.exp()).tolist()
    assert judge.similarity(picture, texts) == pytest.approx(expected, abs=1e-6)
    mean = torch.nn.functional.normalize(out.text_embeds[:2].mean(0), dim=-1)
    expected = [float(out.image_embeds[0] @ mean), expected[2]]
    assert judge.class_similarity(picture, [texts[:2], texts[2:]]) == pytest.approx(expected, abs=1e-6)
    prefixed = Clip(source(folder), prefix="a photo of ")
    assert prefixed.similarity(picture, ["a red apple"]) == judge.similarity(picture, texts[:1])
    long = "a red apple " * 100
    assert -1 <= judge.similarity(picture, [long])[0] <= 1
    assert clip_score(0.3) == pytest.approx(0.75)
    assert clip_score(-0.1) == 0


def test_owl_finds_what_the_library_finds(folders):
    folder, picture, labels = folders["owl"], tiny.picture(), ["apple", "blue table", "dog"]
    found = OpenDetector(source(folder), EVERYTHING).detect(picture, labels)
    model = tf.Owlv2ForObjectDetection.from_pretrained(folder).eval()
    images = tf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    processor = tf.Owlv2Processor(images, tokenizer)
    texts = [[f"a photo of a {label}" for label in labels]]
    inputs = processor(text=texts, images=picture, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    (expected,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.0, target_sizes=[(picture.height, picture.width)], text_labels=[labels]
    )
    order = expected["scores"].argsort(descending=True, stable=True)
    assert len(found) == len(order) == 36
    assert [one.score for one in found] == pytest.approx(expected["scores"][order].tolist(), abs=1e-6)
    assert [one.label for one in found] == [expected["text_labels"][at] for at in order]
    limits = torch.tensor([picture.width, picture.height] * 2)
    boxes = expected["boxes"][order].clamp_min(0).minimum(limits)
    assert np.array([one.box for one in found]) == pytest.approx(boxes.numpy(), abs=1e-3)
    assert len({one.label for one in found}) > 1


def test_grounding_dino_finds_what_the_library_finds_with_labels_as_they_were_asked(folders):
    folder, picture, labels = folders["dino"], tiny.picture(), ["Apple", "blue table", "dog"]
    found = OpenDetector(source(folder), EVERYTHING).detect(picture, labels)
    model = tf.GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    images = tf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    processor = tf.GroundingDinoProcessor(images, tf.AutoTokenizer.from_pretrained(folder))
    inputs = processor(text=[labels], images=picture, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 9)  # [CLS] apple . blue table . dog . [SEP]
    with torch.no_grad():
        outputs = model(**inputs)
    (expected,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.0, target_sizes=[(picture.height, picture.width)]
    )
    assert len(found) == 12
    spans = {"Apple": slice(1, 2), "blue table": slice(3, 5), "dog": slice(6, 7)}
    boxes, chances = expected["boxes"].numpy(), outputs.logits[0].sigmoid()
    for one in found:
        (at,) = np.flatnonzero(np.abs(boxes.clip(0, [96, 64, 96, 64]) - one.box).max(1) < 1e-3)[:1]
        by_label = {label: float(chances[at, span].max()) for label, span in spans.items()}
        assert one.label == max(by_label, key=by_label.get)
        assert one.score == pytest.approx(max(by_label.values()), abs=1e-6)


def test_boxes_of_a_resized_frame_are_in_pixels_of_the_picture(folders):
    picture = tiny.picture(192, 128)
    options = DetectorOptions(threshold=0.0, overlap=None, long_side=96)
    small = OpenDetector(source(folders["owl"]), options).detect(picture, ["apple"])
    shown = picture.resize((96, 64), Image.Resampling.BICUBIC)
    plain = OpenDetector(source(folders["owl"]), EVERYTHING).detect(shown, ["apple"])
    assert np.array([one.box for one in small]) == pytest.approx(
        2 * np.array([one.box for one in plain]), abs=1e-4
    )


def test_overlapping_boxes_of_one_label_are_one_thing(folders):
    picture, labels = tiny.picture(), ["apple", "dog"]
    everything = OpenDetector(source(folders["owl"]), EVERYTHING).detect(picture, labels)
    apart = OpenDetector(source(folders["owl"]), DetectorOptions(threshold=0.0, overlap=0.05)).detect(
        picture, labels
    )
    assert 0 < len(apart) < len(everything)
    assert apart[0] == everything[0]
    few = OpenDetector(source(folders["owl"]), DetectorOptions(threshold=0.0, overlap=None, most=3))
    assert few.detect(picture, labels) == everything[:3]
    high = everything[5].score
    sure = OpenDetector(source(folders["owl"]), DetectorOptions(threshold=high, overlap=None))
    assert sure.detect(picture, labels) == [one for one in everything if one.score > high]
    assert sure.detect(picture, []) == []


@pytest.mark.parametrize("name", ["depth", "hybrid"])
def test_depth_is_the_librarys_at_the_pictures_size(folders, name):
    folder, picture = folders[name], tiny.picture(70, 50)
    found = DepthModel(source(folder)).depth(picture)
    model = tf.AutoModelForDepthEstimation.from_pretrained(folder).eval()
    images = tf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        outputs = model(**images(picture, return_tensors="pt"))
    (expected,) = images.post_process_depth_estimation(outputs, target_sizes=[(50, 70)])
    assert found.shape == (50, 70)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected["predicted_depth"].numpy(), abs=1e-5)
    assert found.std() > 1e-3


def test_depth_of_compbench_is_what_its_code_saves(folders):
    folder, picture = folders["hybrid"], tiny.picture(70, 50)
    found = DepthModel(source(folder), eight_bit=True).depth(picture)
    model = tf.AutoModelForDepthEstimation.from_pretrained(folder).eval()
    images = tf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        (near,) = model(**images(picture, return_tensors="pt")).predicted_depth
    near = (near - near.min()) / (near.max() - near.min())
    large = torch.nn.functional.interpolate(
        near[None, None], size=(50, 70), mode="bilinear", align_corners=True
    )
    saved = np.asarray(Image.fromarray(255 * large[0, 0].numpy()).convert("L"))
    assert np.array_equal(found, saved.astype(np.float32))
    assert found.min() == 0
    assert found.max() >= 254


def test_metres_are_turned_so_that_larger_is_nearer(tmp_path):
    picture = tiny.picture(42, 42)
    metres = tiny.depth(tmp_path / "metres", "metric")
    model = tf.AutoModelForDepthEstimation.from_pretrained(metres).eval()
    images = tf.AutoImageProcessor.from_pretrained(metres, backend="pil")
    with torch.no_grad():
        (far,) = model(**images(picture, return_tensors="pt")).predicted_depth
    assert DepthModel(source(metres)).depth(picture) == pytest.approx(-far.numpy(), abs=1e-5)


def test_another_model_or_a_part_of_one_is_refused(folders, tmp_path):
    with pytest.raises(CheckpointError, match="expected a model of clip, found blip"):
        Clip(source(folders["blip"]))
    captions = tf.BlipForConditionalGeneration(tf.BlipConfig.from_pretrained(folders["blip"]))
    captions.save_pretrained(tmp_path / "captions")
    with pytest.raises(CheckpointError, match="expected all weights of BlipForQuestionAnswering, found none"):
        BlipVQA(source(tmp_path / "captions"))


def test_pickled_and_broken_weights_are_refused(folders, tmp_path):
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders["clip"] / name).read_bytes())
    with pytest.raises(CheckpointError, match="weights are read as safetensors"):
        Clip(source(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(CheckpointError, match="weights are read as safetensors"):
        Clip(source(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((folders["clip"] / "model.safetensors").read_bytes()[:900])
    with pytest.raises(CheckpointError, match="cannot load a judge"):
        Clip(source(tmp_path))


def test_versions_tell_weights_and_settings_apart_and_not_folders(folders, tmp_path):
    first = Clip(source(folders["clip"]))
    moved = tmp_path / "clip"
    moved.mkdir()
    for file in folders["clip"].iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert Clip(source(moved)).version == first.version
    assert first.name == "clip"
    assert "float32" in first.version
    assert f"transformers-{tf.__version__}" in first.version
    other = open_model(Source(place=str(folders["clip"]), device="cpu", precision="bf16"), "CLIPModel")
    assert other.version != open_model(source(folders["clip"]), "CLIPModel").version
    assert Clip(source(folders["clip"]), prefix="a ").version != first.version


def test_a_detector_needs_a_place_for_the_label(folders):
    with pytest.raises(RequestError, match="expected a wording with"):
        OpenDetector(source(folders["owl"]), DetectorOptions(wording="a photo"))
