// How an image is prepared: upright, on white, at the model's size. No Android here: the unit tests run on any JVM.

package vtx.captions

import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt
import kotlin.math.sin

/** ARGB colours, row by row. */
class Picture(val colours: IntArray, val width: Int, val height: Int)

/** Turn a picture upright, as its EXIF orientation (1 to 8) says; another number turns nothing. */
fun upright(picture: Picture, orientation: Int): Picture {
    val (w, h) = picture.width to picture.height
    // Where the new picture's first colour was, and how far it is from there to its neighbours across and down.
    val (start, across, down) = when (orientation) {
        2 -> Triple(w - 1, -1, w)
        3 -> Triple(w * h - 1, -1, -w)
        4 -> Triple(w * (h - 1), 1, -w)
        5 -> Triple(0, w, 1)
        6 -> Triple(w * (h - 1), -w, 1)
        7 -> Triple(w * h - 1, -w, -1)
        8 -> Triple(w - 1, w, -1)
        else -> return picture
    }
    val (width, height) = if (orientation < 5) w to h else h to w
    return Picture(IntArray(w * h) { picture.colours[start + it % width * across + it / width * down] }, width, height)
}

/** The EXIF orientation of a picture that a camera wants turned clockwise by 0, 90, 180 or 270 degrees. */
fun orientationOf(degrees: Int) = mapOf(90 to 6, 180 to 3, 270 to 8)[degrees] ?: 1

/**
 * Fit ARGB colours to a size, as `resize` of model.json says: transparency on white, then "pad" (aspect ratio kept, white
 * borders), "stretch", "crop" (the middle in the aspect ratio of the size) or "shortest" (the shortest side fits, then
 * the middle), each also with "-bicubic" or "-lanczos". Android's own scaling reads four neighbours only: a photograph
 * made small so is another one than the model learned from.
 */
fun fitted(colours: IntArray, width: Int, height: Int, toWidth: Int, toHeight: Int, resize: String): ByteArray {
    val fit = resize.substringBefore("-")
    val filter = resize.substringAfter("-", "bilinear")
    var (rows, columns) = toHeight to toWidth
    var (down, across) = (0.0 to height.toDouble()) to (0.0 to width.toDouble()) // the part that is read
    when (fit) {
        "pad" -> {
            val scale = min(toWidth.toDouble() / width, toHeight.toDouble() / height)
            rows = max(1, floor(height * scale + 0.5).toInt())
            columns = max(1, floor(width * scale + 0.5).toInt())
        }
        "shortest" -> {
            rows = max(toHeight, toWidth * height / width)
            columns = max(toWidth, toHeight * width / height)
        }
        "crop" -> {
            val tall = min(height.toDouble(), width.toDouble() * toHeight / toWidth)
            val wide = min(width.toDouble(), height.toDouble() * toWidth / toHeight)
            down = (height - tall) / 2 to (height + tall) / 2
            across = (width - wide) / 2 to (width + wide) / 2
        }
        "stretch" -> Unit
        else -> throw IllegalArgumentException("resize \"$resize\" is not known: use a newer Pixels.kt")
    }
    val wide = means(width, columns, across, filter) // columns first, as Pillow does
    val between = ByteArray(height * columns * 3)
    for (y in 0 until height) for (x in 0 until columns) for (c in 0 until 3) {
        between[(y * columns + x) * 3 + c] = wide[x].of { i -> onWhite(colours[y * width + i], c) }
    }
    val tall = means(height, rows, down, filter)
    val result = ByteArray(toHeight * toWidth * 3) { -1 } // white
    val (top, left) = (toHeight - rows) / 2 to (toWidth - columns) / 2 // negative: cut off
    for (y in max(0, top) until min(toHeight, top + rows)) for (x in max(0, left) until min(toWidth, left + columns)) {
        for (c in 0 until 3) {
            result[(y * toWidth + x) * 3 + c] =
                tall[y - top].of { i -> between[(i * columns + x - left) * 3 + c].toInt() and 255 }
        }
    }
    return result
}

private fun onWhite(colour: Int, channel: Int): Int {
    val value = colour shr (16 - 8 * channel) and 255
    val alpha = colour ushr 24
    return if (alpha == 255) value else (255 + (value - 255) * alpha / 255.0).roundToInt()
}

/** A new pixel: a weighted mean of old ones from `first` on. */
private class Mean(val first: Int, val weights: DoubleArray) {
    inline fun of(value: (Int) -> Int): Byte {
        var sum = 0.0
        for (i in weights.indices) sum += weights[i] * value(first + i)
        return sum.roundToInt().coerceIn(0, 255).toByte()
    }
}

/** The means that resize a part of one axis; they reach over a wider range where the image shrinks. */
private fun means(length: Int, size: Int, part: Pair<Double, Double>, filter: String): List<Mean> {
    val step = (part.second - part.first) / size
    val (support, weigh) = when (filter) {
        "bicubic" -> 2 to ::bicubic
        "lanczos" -> 3 to ::lanczos
        else -> 1 to ::bilinear
    }
    val scale = max(step, 1.0)
    val reach = support * scale
    return (0 until size).map { to ->
        val centre = part.first + (to + 0.5) * step
        val first = max(0, (centre - reach + 0.5).toInt())
        val last = min(length, (centre + reach + 0.5).toInt())
        val weights = DoubleArray(last - first) { weigh(abs(first + it + 0.5 - centre) / scale) }
        val total = weights.sum()
        Mean(first, DoubleArray(weights.size) { weights[it] / total })
    }
}

private fun bilinear(x: Double) = max(0.0, 1 - x)

private fun bicubic(x: Double) =
    if (x < 1) (1.5 * x - 2.5) * x * x + 1 else if (x < 2) ((-0.5 * x + 2.5) * x - 4) * x + 2 else 0.0

private fun lanczos(x: Double) = if (x < 3) sinc(x) * sinc(x / 3) else 0.0

private fun sinc(x: Double) = if (x == 0.0) 1.0 else sin(PI * x) / (PI * x)
