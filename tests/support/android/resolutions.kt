package androidx.camera.core.resolutionselector

import android.util.Size

class ResolutionStrategy(size: Size, rule: Int) {
    companion object {
        const val FALLBACK_RULE_CLOSEST_HIGHER_THEN_LOWER = 2
    }
}

class ResolutionSelector {
    class Builder {
        fun setResolutionStrategy(strategy: ResolutionStrategy): Builder = this

        fun build(): ResolutionSelector = TODO()
    }
}
