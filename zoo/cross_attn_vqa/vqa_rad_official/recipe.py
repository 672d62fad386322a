"""Trains and releases `cross_attn_vqa/vqa_rad_official`: python -m zoo.cross_attn_vqa.vqa_rad_official.recipe"""

from recipes import families, release as making

RELEASE = families.radiology(__file__, "official")

if __name__ == "__main__":
    making.main(RELEASE)
