"""Trains and releases `co_attn_vqa/easy_vqa`: python -m zoo.co_attn_vqa.easy_vqa.recipe"""

from recipes import release as making, shapes

RELEASE = shapes.answerer(__file__, "picture and words are re-expressed by each other")

if __name__ == "__main__":
    making.main(RELEASE)
