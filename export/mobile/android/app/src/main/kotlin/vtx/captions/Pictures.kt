// Pictures of the gallery and of the camera as colours.

package vtx.captions

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.net.Uri
import androidx.exifinterface.media.ExifInterface
import java.io.IOException

/** A picture that cannot be used; the message is for the screen. */
class BadPicture(message: String) : IOException(message)

private const val ENOUGH = 4_000_000 // pixels; larger pictures are read at a half, a quarter … of their sides

/** A picture of the gallery, upright. */
fun read(resolver: ContentResolver, uri: Uri): Picture {
    fun stream() = resolver.openInputStream(uri) ?: throw BadPicture("it cannot be opened. Choose another")
    val options = BitmapFactory.Options().apply { inJustDecodeBounds = true }
    stream().use { BitmapFactory.decodeStream(it, null, options) }
    if (options.outWidth < 1 || options.outHeight < 1) throw BadPicture("it is no picture that Android reads. Choose another")
    options.inJustDecodeBounds = false
    options.inSampleSize = 1
    while (options.outWidth.toLong() * options.outHeight / options.inSampleSize / options.inSampleSize > ENOUGH) {
        options.inSampleSize *= 2
    }
    val bitmap = stream().use { BitmapFactory.decodeStream(it, null, options) }
        ?: throw BadPicture("it is cut off or damaged. Choose another")
    val orientation = try {
        stream().use { ExifInterface(it).getAttributeInt(ExifInterface.TAG_ORIENTATION, 1) }
    } catch (error: IOException) {
        1 // the picture was decoded all the same
    }
    return upright(picture(bitmap), orientation)
}

fun picture(bitmap: Bitmap): Picture {
    val colours = IntArray(bitmap.width * bitmap.height)
    bitmap.getPixels(colours, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
    return Picture(colours, bitmap.width, bitmap.height)
}
