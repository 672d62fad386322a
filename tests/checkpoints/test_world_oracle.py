"""Published architectures against transformers itself: many captions, and one at full width (slow).

pip install -e ".[test,oracle]"
python -m pytest -m oracle tests/checkpoints/test_world_oracle.py
"""

from __future__ import annotations

import numpy as np
import pytest

from vtx_keras import zoo
from vtx_keras.checkpoints.published import _said

pytestmark = pytest.mark.oracle
CAPTIONERS = ("blip", "git", "vit_gpt2")
PICTURES = 128


@pytest.fixture(scope="module")
def oracle():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import published_oracle

    return published_oracle


@pytest.mark.parametrize("end", [1.2, 2.0])
@pytest.mark.parametrize("kind", CAPTIONERS)
def test_captions_equal_by_every_rule(oracle, kind, end, tmp_path):
    """128 pictures by 9 rules, with and without a prompt; captions end early at many lengths."""
    peer = oracle.MAKERS[kind](tmp_path)
    oracle.raise_end(kind, peer, end)
    peer.save_pretrained(tmp_path)
    model = zoo.named(tmp_path)
    generator = np.random.default_rng(1)
    pictures = generator.integers(0, 256, (PICTURES, oracle.SIDE, oracle.SIDE, 3))
    pictures = (pictures * generator.uniform(0, 1, (PICTURES, 1, 1, 1))).astype("uint8")
    pixels = oracle.as_torch(model, pictures)
    text = peer.config.decoder if kind == "vit_gpt2" else peer.config.get_text_config()
    names = _said.pieces(tmp_path, text.vocab_size)
    prompt = [60, 70] if kind == "vit_gpt2" else [names.index("a"), names.index("cat")]
    lengths, differ, total = set(), 0, 0
    for settings, rules in oracle.RULES.values():
        for given in ([], prompt):
            wanted = [[names[i] for i in row] for row in oracle.written(kind, peer, pixels, given, **settings)]
            extra = {"length_penalty": settings["length_penalty"]} if "length_penalty" in settings else {}
            start = [[model.vocabulary.index(names[i]) for i in given]] if given else None
            beams, limit = settings["num_beams"], oracle.LENGTH
            ids, _ = model.generate_ids(pictures, start, beams=beams, max_length=limit, **rules, **extra)
            ours = [[model.vocabulary[i] for i in row if i] for row in np.asarray(ids).tolist()]
            differ += sum(one != other for one, other in zip(ours, wanted, strict=True))
            total += PICTURES
            lengths |= {len(one) for one in wanted}
    assert differ <= total // 1000, f"{differ} of {total} captions differ: more than ties of float32"
    assert len(lengths) > 2


@pytest.mark.slow
def test_full_width_gives_the_same_logits_and_words(oracle, tmp_path):
    import torch

    peer = oracle.blip(tmp_path, base=True)
    model = zoo.build("cross_attn_captioner", weights=tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (2, *model.image_shape), dtype="uint8")
    pixels = oracle.as_torch(model, pictures)
    pieces = oracle.bert_pieces(len(model.vocabulary))
    ids = np.array([[len(pieces) - 2, 1000, 2000, 3000]] * 2)
    tokens = np.array([[2, *(model.vocabulary.index(pieces[i]) for i in ids[0][1:])]] * 2, "int32")
    with torch.inference_mode():
        wanted = peer(pixel_values=pixels, input_ids=torch.tensor(ids)).logits.numpy()
    order = [pieces.index(piece) for piece in model.vocabulary[5:]]
    ours = np.asarray(model({"image": pictures.astype("float32"), "tokens": tokens}))[..., 5:]
    assert np.abs(ours - wanted[..., order]).max() < 5e-5
