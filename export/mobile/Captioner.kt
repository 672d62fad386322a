// Caption an image on Android with a captioner's .tflite of form `one`.
// Does the same as run.py; needs Pixels.kt beside it.
// Gradle: com.google.ai.edge.litert:litert (1.x, whose interpreter keeps its old package name)

import android.graphics.Bitmap
import java.io.File
import java.nio.ByteBuffer
import java.util.zip.ZipFile
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

    /** The image at the model's size as RGB bytes. */
    private fun pixels(image: Bitmap): ByteBuffer {
        val shape = about.getJSONArray("image_shape")
        val colours = IntArray(image.width * image.height)
        image.getPixels(colours, 0, image.width, 0, 0, image.width, image.height)
        val resize = about.getString("resize")
        val bytes = fitted(colours, image.width, image.height, shape.getInt(1), shape.getInt(0), resize)
        return ByteBuffer.allocateDirect(bytes.size).put(bytes).also { it.rewind() }
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
