"""Trains and releases `co_attn_vqa/easy_vqa`: python -m zoo.co_attn_vqa.easy_vqa.recipe"""

from zoo import families, making

RELEASE = families.shape_answerer(__file__, "picture and words are re-expressed by each other")

if __name__ == "__main__":
    making.main(RELEASE)
