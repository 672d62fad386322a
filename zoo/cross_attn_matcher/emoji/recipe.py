"""Trains and releases `cross_attn_matcher/emoji`: python -m zoo.cross_attn_matcher.emoji.recipe"""

import keras
import numpy as np

from vtx_keras.inputs import media
from vtx_keras import zoo as models
from recipes import cards, families, release as making
from zoo.retriever.emoji.recipe import pairs as found_names

BEST = 10  # names that the matcher judges after the retriever


def reranked(matcher: keras.Model) -> cards.Table:
    """Among all names of a split: the retriever alone, and its best judged again by the matcher."""
    retriever, rows = models.build("retriever", weights="emoji"), []
    for split in ("vendor, one name each", "test, one name each"):
        told = list(found_names(split).encoded.as_numpy_iterator())
        pictures, own = [media.read(row["image"]) for row in told], np.array([row["caption"].decode() for row in told])
        names = np.array(sorted(set(own)))
        best = np.argsort(-retriever.similarity(pictures, list(names)), axis=1)[:, :BEST]
        chances = matcher.match(
            [one for one in pictures for _ in range(BEST)], list(names[best].ravel()), batch_size=256
        )
        again = np.take_along_axis(best, np.argsort(-np.reshape(chances, best.shape), axis=1, kind="stable"), axis=1)
        for who, order in (("retriever", best), ("retriever, then matcher", again)):
            hits = [float(np.mean((names[order[:, :most]] == own[:, None]).any(axis=1))) for most in (1, 5)]
            rows.append([split, f"{len(told):,d} of {len(names):,d}", who, *(f"{hit:.3f}" for hit in hits)])
    about = (
        f"The name of a picture among those of a split: the retriever's {BEST} best, in its order and in the matcher's."
    )
    header = ["split", "pictures, names", "by", "recall 1", "recall 5"]
    return cards.Table("As a judge of what the retriever found", about, header, rows)


RELEASE = making.Release(
    __file__,
    about="Says how well a name fits an emoji's picture or a drawing: a judge of what the retriever found.",
    expect="It was taught with names of other pictures drawn at random, so names that differ in one word (a tone, a "
    "gender) are the hard ones: do not let it order what a search found.",
    sets=("emoji", "emoji_more", "word_cards"),
    examples=families.emoji_names,
    judged={split: what for split, what in families.EMOJI_SPLITS.items() if split != "composition"},
    eval_data="emoji",
    options={"depth": 2},
    copies=2,
    epochs=4,
    besides=reranked,
)

if __name__ == "__main__":
    making.main(RELEASE)
