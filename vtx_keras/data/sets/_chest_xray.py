"""Build the data set chest_xray: radiographs and CT slices with case notes, as written or with findings hidden."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from vtx_keras.data import sets
from vtx_keras.data.sets._builder import WORD, Builder

COLUMNS = ("image", "note", "findings", "view", "modality", "age", "sex", "patient", "split", "licence")
MASK = "finding"
NAMES = re.compile(  # of findings and of what causes them
    r"(?:severe )?acute respiratory (?:distress )?syndrome(?: coronavirus)?(?:-2)?|\bards\b|\brds\b"
    r"|\b(?:2019[- ])?novel[- ]coronavirus|\w*(?:corona ?virus|covid)\w*(?: disease)?(?:[- ]+(?:20)?19)?"
    r"|\b(?:2019[- ]?)?n-?cov\w*|\bco-?rads\b(?: \d)?|\bsars\b(?:[- ]?cov\w*)?(?:-?2\b)?|\bmers\b(?:-cov)?"
    r"|\w*virus(?:es)?\b|\bviral\b|\binfluenza\w*|\bflu[- ]like\b|\bh1n1\b|\bvaricella\w*|\bchicken ?pox\b|\bvzv\b"
    r"|\bherpes\w*|\bcytomegalo\w*|\b(?:broncho)?pneumoni\w*|\bpneumocyst\w*|\bjirovec\w*|\bcarinii\b|\bpcp\b"
    r"|\bstreptoc\w*|\bpneumococ\w*|\bstaphyloc\w*|\bklebsiel\w*|\blegionel\w*|\bmycoplasm\w*|\bchlamyd\w*"
    r"|\be\. ?coli\b|\bescherichia\b|\w*bacteri\w*|\blip(?:o|id)\w*|\btubercul\w*|\baspergil\w*|\bnocardi\w*"
    r"|\bfung(?:i|us|al)\b",
    re.IGNORECASE,
)
TOLD = re.compile(  # tests, treatments and exposures that name them in other words
    r"pcr\b|polymerase|nucleic acid|\brna\b|swab|serolog|\big[gm]\b|antigen|\bcultures?\b|gram[- ]?stain|\blavage\b"
    r"|\btested (?:positive|negative|for)\b|chloroquin|remdesivir|tocilizumab|favipiravir|\w+navir\b|oseltamivir"
    r"|ribavirin|a[cy]+clovir|interferon|anti-?viral|antibioti|\w{3,}(?:mycin|floxacin|cillin)\b|\bcef\w+|trimethoprim"
    r"|co-?trimoxazole|\bhiv\b|\baids\b|\bcd4|immunodeficien|mineral oil|paraffin|aspirat|\bcontacts?\b|\bexposure\b"
    r"|\bexposed\b|travel|epidemi|pandemi|outbreak|quarantin|isolation|wuhan|hubei|\bchina\b|chinese|\bkorea\b|\bitaly\b|\biran\b",
    re.IGNORECASE,
)
MONTH = (
    "(?:january|february|march|april|june|july|august|september|october|november|december"
    "|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)"
)
DATE = re.compile(  # when it was: before 2020, there was no COVID-19
    rf"\b\d{{1,2}}[/.]\d{{1,2}}[/.](?:19|20)?\d\d\b|\b\d{{4}}-\d\d-\d\d\b"
    rf"|(?:\b\d{{1,2}} )?\b{MONTH}\b\.?(?: \d{{1,2}}\b)?|\bmay \d{{1,2}}\b|,? ?\b(?:19|20)\d\d\b",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"(?<=[.;!?])\s+(?=[^a-z])")


class ChestXray(Builder):
    """Images of chests with notes; `image_id` is the patient, by whom the splits are."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = sets.SETS["chest_xray"].by_hand.format(folder="the manual directory")
    BUILDER_CONFIGS: ClassVar[list] = [
        tfds.core.BuilderConfig(name="masked", description="Words of the notes that tell the finding are hidden."),
        tfds.core.BuilderConfig(name="notes", description="The notes as written; many name the finding."),
    ]
    FEATURES: ClassVar[dict[str, Any]] = {
        "id": WORD(),
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image_id": WORD(),
        "text": WORD(),
        "findings": tfds.features.Sequence(WORD()),
        "view": WORD(),
        "modality": WORD(),
        "age": WORD(),
        "sex": WORD(),
        "licence": WORD(),
    }

    def examples(self) -> Iterator[tuple[str, str, dict]]:
        done = set()
        for path, row in self.rows_by_hand("cases.csv", "images", COLUMNS):
            if path.stem in done:
                continue  # five are listed twice, as two patients
            done.add(path.stem)
            findings = [name.strip() for name in row["findings"].split(";") if name.strip()]
            note = " ".join(row["note"].split())
            example = {
                "id": path.stem,
                "image": str(path),
                "image_id": row["patient"],
                "text": masked(note, findings) if self.builder_config.name == "masked" else note,
                "findings": findings,
                **{column: row[column] for column in ("view", "modality", "age", "sex", "licence")},
            }
            yield {"dev": "validation"}.get(row["split"], row["split"]), path.stem, example


def masked(note: str, findings: Sequence[str] = ()) -> str:
    """Hide what tells the findings: names become "finding", and sentences about tests, treatments or exposure go.

    Names are those of NAMES in every note, whatever its findings are, and those of `findings`. Dates go too.

    >>> masked("Fever for 3 days. RT-PCR was positive. Opacities typical for COVID-19 pneumonia.", ["COVID-19"])
    'Fever for 3 days. Opacities typical for finding.'
    """
    kept = " ".join(sentence for sentence in SENTENCE.split(note) if not TOLD.search(sentence))
    kept = NAMES.sub(MASK, DATE.sub("", kept))
    for name in findings:
        if name != "No Finding":
            kept = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", MASK, kept, flags=re.IGNORECASE)
    return " ".join(re.sub(rf"\b{MASK}\b(?:[\s/#(-]+{MASK}\b\)?)+", MASK, kept).split())
