package androidx.exifinterface.media

import java.io.InputStream

class ExifInterface(stream: InputStream) {
    fun getAttributeInt(tag: String, otherwise: Int): Int = otherwise

    companion object {
        const val TAG_ORIENTATION = "Orientation"
    }
}
