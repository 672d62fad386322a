package vtx.captions

import java.io.File
import java.util.Base64
import java.util.zip.ZipEntry
import java.util.zip.ZipOutputStream
import org.json.JSONArray
import org.json.JSONObject

/** What the package computes; tools/phone_fixtures.py writes it. */
object Fixtures {
    val cases = JSONObject(File(System.getProperty("fixtures") ?: "../../fixtures", "cases.json").readText())
    val vocabulary = (0 until all("vocabulary").length()).map { all("vocabulary").getString(it) }

    fun all(name: String): JSONArray = cases.getJSONArray(name)

    fun rows(name: String) = (0 until all(name).length()).map { all(name).getJSONObject(it) }

    fun numbers(array: JSONArray) = IntArray(array.length()) { array.getInt(it) }

    fun bytes(text: String): ByteArray = Base64.getDecoder().decode(text)

    fun about(name: String) = companions(file(cases.getJSONObject(name).toString())).first

    fun picture(at: Int): Picture {
        val row = rows("pictures")[at]
        val (red, green, blue, alpha) = (0..3).toList()
        val rgba = bytes(row.getString("rgba")).map { it.toInt() and 255 }
        val colours = rgba.chunked(4) { it[alpha] shl 24 or (it[red] shl 16) or (it[green] shl 8) or it[blue] }
        return Picture(colours.toIntArray(), row.getInt("width"), row.getInt("height"))
    }

    /** A file whose end is as that of a model: bytes of something else, then the zip. */
    fun file(model: String, vocabulary: String = this.vocabulary.joinToString("") { "$it\n" }): File {
        val file = File.createTempFile("model", ".tflite").also { it.deleteOnExit() }
        file.outputStream().use { stream ->
            stream.write(ByteArray(1000) { (it * it).toByte() })
            val zip = ZipOutputStream(stream)
            for ((name, content) in listOf("model.json" to model, "vocabulary.txt" to vocabulary)) {
                zip.putNextEntry(ZipEntry(name))
                zip.write(content.toByteArray())
            }
            zip.finish()
        }
        return file
    }
}
