"""Trains and releases `cross_attn_vqa/easy_vqa`: python -m zoo.cross_attn_vqa.easy_vqa.recipe"""

from recipes import release as making, shapes

RELEASE = shapes.answerer(__file__, "every word looks at the picture by cross-attention")

if __name__ == "__main__":
    making.main(RELEASE)
