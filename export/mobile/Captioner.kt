// Caption an image on Android with a captioner's .tflite of form `one`.
// Does the same as run.py. Gradle: com.google.ai.edge.litert:litert (1.x, whose interpreter keeps its old package name)

import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.graphics.Rect
import java.io.File
import java.nio.ByteBuffer
import java.util.zip.ZipFile
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt
import org.json.JSONObject
import org.tensorflow.lite.Interpreter

class Captioner(file: File) : AutoCloseable {
    // The vocabulary and model.json are a zip at the end of the model's file.
    private val about: JSONObject
    private val vocabulary: List<String>

    init {
        ZipFile(file).use { zip ->
            fun read(name: String) = zip.getInputStream(zip.getEntry(name)).readBytes().decodeToString()
            about = JSONObject(read("model.json"))
            vocabulary = read("vocabulary.txt").trimEnd('\n').split("\n")
        }
    }

    // The decoding loop runs on the CPU. With form `split`, `encode` can run on the GPU or NPU.
    private val interpreter = Interpreter(file)

    fun caption(image: Bitmap): String {
        val ids = arrayOf(IntArray(about.getInt("max_length")))
        val outputs = mapOf<String, Any>("ids" to ids, "score" to FloatArray(1))
        interpreter.runSignature(mapOf<String, Any>("image" to pixels(image)), outputs, "serving_default")
        return words(ids[0])
    }

    /** The image at the model's size as RGB bytes: aspect ratio kept, white borders. */
    private fun pixels(image: Bitmap): ByteBuffer {
        val shape = about.getJSONArray("image_shape")
        val (height, width) = shape.getInt(0) to shape.getInt(1)
        val scale = min(width.toDouble() / image.width, height.toDouble() / image.height)
        val (w, h) = max(1, (image.width * scale).roundToInt()) to max(1, (image.height * scale).roundToInt())
        val padded = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
        Canvas(padded).apply {
            drawColor(Color.WHITE)
            val (left, top) = (width - w) / 2 to (height - h) / 2
            drawBitmap(image, null, Rect(left, top, left + w, top + h), Paint(Paint.FILTER_BITMAP_FLAG))
        }
        val colours = IntArray(width * height).also { padded.getPixels(it, 0, width, 0, 0, width, height) }
        val bytes = ByteBuffer.allocateDirect(colours.size * 3)
        for (colour in colours) for (shift in intArrayOf(16, 8, 0)) bytes.put((colour shr shift).toByte())
        return bytes.also { it.rewind() }
    }

    /** The ids before the first end or padding, as a text. */
    private fun words(ids: IntArray): String {
        val special = about.getJSONObject("special_ids")
        val stops = setOf(special.getInt("end"), special.getInt("pad"))
        var text = ids.takeWhile { it !in stops }.filter { it >= special.length() }.joinToString(" ") { vocabulary[it] }
        val rules = about.getJSONArray("join_rules")
        for (i in 0 until rules.length()) {
            val rule = rules.getJSONArray(i)
            text = Regex(rule.getString(0)).replace(text, rule.getString(1).replace("\\1", "$1"))
        }
        return text
    }

    override fun close() = interpreter.close()
}
