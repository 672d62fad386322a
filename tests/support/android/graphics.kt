// The parts of Android's graphics that Captioner.kt uses, so that it compiles without the SDK.
package android.graphics

class Bitmap(val width: Int, val height: Int) {
    enum class Config { ARGB_8888 }

    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {}

    companion object {
        fun createBitmap(width: Int, height: Int, config: Config) = Bitmap(width, height)
    }
}

class Canvas(bitmap: Bitmap) {
    fun drawColor(color: Int) {}

    fun drawBitmap(bitmap: Bitmap, source: Rect?, target: Rect, paint: Paint?) {}
}

class Paint(flags: Int) {
    companion object {
        const val FILTER_BITMAP_FLAG = 2
    }
}

class Rect(left: Int, top: Int, right: Int, bottom: Int)

object Color {
    const val WHITE = -1
}
