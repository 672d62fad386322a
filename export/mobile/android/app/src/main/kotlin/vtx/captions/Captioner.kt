// Run a model's .tflite of form `one`: a captioner, or a model that also takes a text.

package vtx.captions

import java.io.File
import java.nio.ByteBuffer
import org.tensorflow.lite.Interpreter

class Captioner(file: File) : AutoCloseable {
    private val companions = companions(file)
    val about: About = companions.first
    private val vocabulary = companions.second

    // The decoding loop runs on the CPU. With form `split`, `encode` can run on the GPU or NPU.
    private val interpreter = try {
        Interpreter(file)
    } catch (error: IllegalArgumentException) {
        throw BadModel("LiteRT cannot read it (${error.message}): copy or export it again", error)
    }

    /** A caption of an upright picture, or what the model answers to a text about it. */
    fun say(picture: Picture, text: String): String {
        val inputs = mutableMapOf<String, Any>("image" to pixels(picture))
        if (!about.asks) {
            val ids = arrayOf(IntArray(about.maxLength))
            run(inputs, "ids", ids)
            return words(ids[0], about, vocabulary)
        }
        inputs["tokens"] = arrayOf(tokens(text, about, vocabulary))
        val (_, count) = interpreter.getOutputTensorFromSignature("logits", SIGNATURE).shape()
        val logits = arrayOf(FloatArray(count))
        run(inputs, "logits", logits)
        return answer(logits[0], about)
    }

    private fun run(inputs: Map<String, Any>, name: String, output: Any) =
        interpreter.runSignature(inputs, mapOf(name to output), SIGNATURE)

    /** The picture at the model's size as RGB bytes. */
    private fun pixels(picture: Picture): ByteBuffer {
        val bytes = fitted(picture.colours, picture.width, picture.height, about.width, about.height, about.resize)
        return ByteBuffer.allocateDirect(bytes.size).put(bytes).also { it.rewind() }
    }

    override fun close() = interpreter.close()

    private companion object {
        const val SIGNATURE = "serving_default"
    }
}
