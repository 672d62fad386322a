"""What describes a served model: the interface, batches, KServe, Triton and stored requests are as the exports are."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import keras
import onnx
import pytest
import tensorflow as tf
import yaml
from exporting import few
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from onnx import helper
from paths import PROGRAMS
from serving import PHOTOS, SERVING, a_captioner, asked, loaded, program, standing_in
from toys import decisive, toy

from vtx_keras import export, zoo
from vtx_keras.export import _saved_model as savedmodel

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """The folder of a captioner, and the address of a stand-in that serves it."""
    with a_captioner(tmp_path_factory.mktemp("served") / "captions") as served:
        yield served


def accepts(schema: dict, value, whole: dict) -> bool:
    """Tell whether a value is what a schema of the description says."""
    if "$ref" in schema:
        *_, name = schema["$ref"].split("/")
        return accepts(whole["components"]["schemas"][name], value, whole)
    if "anyOf" in schema:
        return any(accepts(one, value, whole) for one in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    if not isinstance(value, kinds[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return False
    if isinstance(value, list):
        return (
            all(accepts(schema.get("items", {"type": "array"}), one, whole) for one in value) or "items" not in schema
        )
    if not isinstance(value, dict):
        return True
    known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    return set(schema.get("required", ())) <= set(value) and all(
        accepts(known[key], one, whole)
        if key in known
        else other is True or (isinstance(other, dict) and accepts(other, one, whole))
        for key, one in value.items()
    )


@pytest.fixture(scope="module")
def described():
    return yaml.safe_load((SERVING / "openapi.yaml").read_text())


def test_the_answers_are_what_the_description_says(captions, described):
    _, url, _ = captions
    name = "/v1/models/{model}"
    photo = {"b64": base64.b64encode(PHOTOS[0].read_bytes()).decode()}
    for path, method, body in (
        (name, "get", None),
        (f"{name}/metadata", "get", None),
        (f"{name}:predict", "post", {"inputs": {"image_bytes": [photo, {"b64": ""}]}}),
        (f"{name}:predict", "post", {"inputs": {"image_bytes": 3}}),
    ):
        status, answer = asked(url + path.replace("{model}", "captions"), body and json.dumps(body).encode())
        operation = described["paths"][path][method]
        schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
        assert accepts(schema, answer, described), (path, status, answer)
        assert not accepts(schema, {**answer, "outputs": 3, "error": 3, "model_spec": 3}, described) or method == "get"
        if body and status == 200:
            request = operation["requestBody"]["content"]["application/json"]["schema"]
            assert accepts(request, body, described)
            assert not accepts(request, {"inputs": {"image_bytes": "x"}}, described)
    assert not accepts({"$ref": "#/components/schemas/Status"}, {}, described)
    assert not accepts({"$ref": "#/components/schemas/Captions"}, {"caption": [""], "score": [0.0]}, described)


TASKS = {
    "gated_vqa": ("Answers", "PicturesAndQuestions"),
    "merged_attn_matcher": ("Matches", "PicturesAndTexts"),
    "retriever": ("ImageEmbeddings", "Pictures"),
    "gated_generator": ("Drawings", "TextsAndSeeds"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_every_task_answers_as_described(name, described, tmp_path):
    model = toy(name)
    (tmp_path / "1").mkdir()
    savedmodel.save(model, savedmodel.signatures(model), tmp_path / "1")
    photo = {"b64": base64.b64encode(PHOTOS[0].read_bytes()).decode()}
    texts = {"image_bytes": [photo] * 2, "question": ["w1 w2", ""], "text": ["w1 w2", ""], "seed": [1, 2]}
    with standing_in(tmp_path, "model") as url:
        address = f"{url}/v1/models/model"
        metadata = asked(f"{address}/metadata")[1]
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        bodies = [{"inputs": {one: texts[one] for one in signatures["serving_default"]["inputs"]}}]
        if name == "retriever":
            bodies.append({"signature_name": "text", "inputs": {"text": texts["text"]}})
        if name == "gated_generator":
            bodies.append({"signature_name": "pixels", "inputs": {"tokens": [[2, 5, 6]], "noise": [[0.5] * 8]}})
        outputs = TASKS[name][0]
        for body, kind in zip(bodies, (outputs, "TextEmbeddings" if name == "retriever" else "Arrays"), strict=False):
            status, answer = asked(f"{address}:predict", json.dumps(body).encode())
            assert status == 200, answer
            assert accepts({"$ref": "#/components/schemas/Request"}, body, described)
            assert accepts({"$ref": "#/components/schemas/Answer"}, answer, described)
            assert accepts({"$ref": f"#/components/schemas/{kind}"}, answer["outputs"], described), kind
        assert accepts({"$ref": f"#/components/schemas/{TASKS[name][1]}"}, bodies[0]["inputs"], described)
        assert accepts({"$ref": "#/components/schemas/Metadata"}, metadata, described)


def message(name: str, *fields, within=()):
    """Describe a protocol buffer's message: (name, number, type, repeated)."""
    kinds = {"string": 9, "int": 3, "bool": 8}
    made = descriptor_pb2.DescriptorProto(name=name)
    for field, number, kind, repeated in fields:
        one = made.field.add(name=field, number=number, label=3 if repeated else 1, type=kinds.get(kind, 11))
        if kind not in kinds:
            one.type_name = f".t.{kind}"
    made.nested_type.extend(within)
    return made


def parsed(text: str, name: str, *messages):
    """Read a text proto by a description of the part that is used; a name that is not described is an error."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="t", syntax="proto3", message_type=messages)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return text_format.Parse(text, message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}"))())


def test_the_batching_parameters_are_those_of_the_server_and_fit_what_was_measured():
    wrapped = [("Int64Value", "int"), ("BoolValue", "bool")]
    values = [message(name, ("value", 1, kind, False)) for name, kind in wrapped]
    fields = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    numbered = [(name, number, "Int64Value", False) for number, name in enumerate(fields, 1)]
    numbered += [
        ("enable_large_batch_splitting", 8, "BoolValue", False),
        ("max_execution_batch_size", 9, "Int64Value", False),
    ]
    text = (SERVING / "batching.config").read_text()
    read = parsed(text, "Parameters", *values, message("Parameters", *numbered))
    assert read.enable_large_batch_splitting.value, "a request of more pictures than a batch would be refused"
    batch = read.max_execution_batch_size.value
    stand_in = program("stand_in.py")
    assert (batch, read.num_batch_threads.value) == (stand_in.BATCH, stand_in.THREADS)
    rows = json.loads((PROGRAMS.parent / "benchmarks/results/load.json").read_text())["rows"]
    (triton,) = model_config(
        (SERVING / "triton/captions/config.pbtxt").read_text()
    ).dynamic_batching.preferred_batch_size
    for runtime, best in (("savedmodel", batch), ("onnx", triton)):
        ms = {row["batch"]: row["cpu_ms"] for row in rows if row["part"] == "batch" and row["runtime"] == runtime}
        assert ms[best] < 0.9 * ms[1], "a batch saves little"
        assert ms[best] < 1.2 * min(ms.values()), "a larger batch saves more"


def model_config(text: str):
    """Read a config.pbtxt, with the types of tensors as words."""
    tensor = [("name", 1, "string", False), ("data_type", 2, "string", False), ("dims", 3, "int", True)]
    return parsed(
        re.sub(r"\b(TYPE_\w+|KIND_\w+)", r'"\1"', text),
        "Config",
        message("Shape", ("shape", 1, "int", True)),
        message("Tensor", *tensor, ("reshape", 4, "Shape", False)),
        message("Queue", ("preferred_batch_size", 1, "int", True), ("max_queue_delay_microseconds", 2, "int", False)),
        message("Group", ("count", 2, "int", False), ("kind", 4, "string", False)),
        message("Value", ("string_value", 1, "string", False)),
        message("Entry", ("key", 1, "string", False), ("value", 2, "Value", False)),
        message(
            "Config",
            ("name", 1, "string", False),
            ("backend", 17, "string", False),
            ("default_model_filename", 8, "string", False),
            ("max_batch_size", 4, "int", False),
            ("input", 5, "Tensor", True),
            ("output", 6, "Tensor", True),
            ("dynamic_batching", 11, "Queue", False),
            ("instance_group", 7, "Group", True),
            ("parameters", 14, "Entry", True),
        ),
    )


def tensors(file: Path) -> dict[str, list]:
    """What Triton must be told of a file: names, types and sizes without the batch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    kinds = {"tensor(uint8)": "TYPE_UINT8", "tensor(int32)": "TYPE_INT32", "tensor(float)": "TYPE_FP32"}
    sides = {"input": session.get_inputs(), "output": session.get_outputs()}
    return {
        side: [(one.name, kinds[one.type], [n if isinstance(n, int) else -1 for n in one.shape[1:]]) for one in given]
        for side, given in sides.items()
    }


def as_told(read) -> dict[str, list]:
    def sizes(one):
        return list(one.reshape.shape) if one.HasField("reshape") else list(one.dims)

    return {
        side: [(one.name, one.data_type, sizes(one)) for one in getattr(read, side)] for side in ("input", "output")
    }


@pytest.mark.parametrize("name", ["gated_vqa", pytest.param("cross_attn_captioner", marks=pytest.mark.slow)])
def test_triton_is_told_what_the_file_is(name, tmp_path):
    model = decisive(name) if name.endswith("captioner") else toy(name)
    export.onnx(model, tmp_path / "model.onnx", verify_data=few(model))
    program("triton/repository.py").main([str(tmp_path / "model.onnx"), str(tmp_path / "models" / name)])
    read = model_config((tmp_path / "models" / name / "config.pbtxt").read_text())
    assert as_told(read) == tensors(tmp_path / "models" / name / "1" / "model.onnx")
    assert all(one.dims for one in [*read.input, *read.output]), "Triton wants a dimension"
    assert (read.name, read.max_batch_size) == (name, 16)


def test_the_config_beside_it_is_of_the_released_captioner():
    read = as_told(model_config((SERVING / "triton/captions/config.pbtxt").read_text()))
    (image,), (ids, score) = read["input"], read["output"]
    options = json.loads((PROGRAMS.parent / "zoo/cross_attn_captioner/photos/config.json").read_text())["overrides"]
    assert image == ("image", "TYPE_UINT8", options["image_shape"])
    assert ids == ("ids", "TYPE_INT32", [options["max_length"]])
    assert score == ("score", "TYPE_FP32", [])


@pytest.mark.slow
def test_the_config_beside_it_is_what_is_written_for_the_released_captioner(tmp_path):
    model = zoo.build("cross_attn_captioner")
    export.onnx(model, tmp_path / "model.onnx", verify_data=few(model))
    written = program("triton/repository.py").config(tmp_path / "model.onnx", "captions")
    assert written == (SERVING / "triton/captions/config.pbtxt").read_text()


def test_a_file_without_batches_is_not_for_triton(tmp_path):
    number = helper.make_tensor_value_info("index", onnx.TensorProto.INT32, [])
    graph = helper.make_graph([helper.make_node("Identity", ["index"], ["next"])], "one", [number], [number])
    graph.output[0].name = "next"
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(file, str(tmp_path / "step.onnx"))
    with pytest.raises(SystemExit, match="index has no batches"):
        program("triton/repository.py").main([str(tmp_path / "step.onnx"), str(tmp_path / "models")])
    assert not (tmp_path / "models").exists()


def test_kserve_is_told_of_both_formats():
    services = list(yaml.safe_load_all((SERVING / "kserve.yaml").read_text()))
    models = {one["metadata"]["name"]: one["spec"]["predictor"]["model"] for one in services}
    assert {name: one["protocolVersion"] for name, one in models.items()} == {"captions": "v1", "captions-onnx": "v2"}
    assert all(one["kind"] == "InferenceService" for one in services)
    assert (SERVING / Path(models["captions"]["args"][1].partition("=")[2]).name).is_file()


def test_stored_requests_are_answered_by_the_model(captions, tmp_path):
    prediction_log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    folder, _, model = captions
    target = folder / "1" / "assets.extra" / "tf_serving_warmup_requests"
    program("warm_up.py").main([str(folder / "1"), str(PHOTOS[0])])
    signature = loaded(str(folder / "1")).signatures["serving_default"]
    rows = []
    for record in tf.data.TFRecordDataset(str(target)):
        request = prediction_log.PredictionLog.FromString(record.numpy()).predict_log.request
        assert (request.model_spec.name, request.model_spec.signature_name) == ("captions", "serving_default")
        answer = signature(**{name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()})
        rows.append(len(answer["ok"]))
        assert [one.decode() for one in answer["caption"].numpy()] == model.generate([PHOTOS[0]]) * rows[-1]
    assert rows == [1, 4, 16]


def test_requests_that_would_fail_are_not_stored(captions, tmp_path):
    warm_up, folder = program("warm_up.py"), captions[0] / "1"
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    for arguments, said in (
        ([str(tmp_path), str(PHOTOS[0])], "has no saved_model.pb"),
        ([str(folder), str(tmp_path / "bad.jpg")], "cannot be read"),
        ([str(folder), "none.jpg"], "cannot be read"),
        ([str(folder)], "takes image_bytes; given: nothing"),
        ([str(folder), str(PHOTOS[0]), "--question", "what?"], "takes image_bytes; given: image_bytes, question"),
        ([str(folder), str(PHOTOS[0]), str(PHOTOS[1])], "2 pictures"),
        ([str(folder), str(PHOTOS[0]), "--signature", "x"], "expected one of"),
    ):
        with pytest.raises(SystemExit, match=re.escape(said)):
            warm_up.main(arguments)
