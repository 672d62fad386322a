"""Trains and releases `cross_attn_vqa/vqa_rad_disjoint`: python -m zoo.cross_attn_vqa.vqa_rad_disjoint.recipe"""

from recipes import families, release as making

RELEASE = families.radiology(__file__, "disjoint")

if __name__ == "__main__":
    making.main(RELEASE)
