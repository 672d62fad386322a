// What lies in the zip at the end of a model's file. No Android here: org.json is a library on other JVMs.

package vtx.captions

import java.io.File
import java.io.IOException
import java.util.zip.ZipFile
import org.json.JSONArray
import org.json.JSONObject

/** A model's file that cannot be used; the message is for the screen. */
class BadModel(message: String, cause: Throwable? = null) : IOException(message, cause)

private const val FORMAT = 1 // of model.json
private val TASKS = setOf("captioner", "vqa", "classifier", "matcher")

/** A model's description and its vocabulary, after checking that this program can run it. */
fun companions(file: File): Pair<About, List<String>> {
    val json: JSONObject
    val vocabulary: List<String>
    try {
        val (said, lines) = ZipFile(file).use { zip ->
            listOf("model.json", "vocabulary.txt").map { name ->
                val entry = zip.getEntry(name) ?: throw IOException("it has no $name")
                String(zip.getInputStream(entry).readBytes(), Charsets.UTF_8)
            }
        }
        json = JSONObject(said)
        vocabulary = lines.removeSuffix("\n").split("\n")
        val expected = json.getInt("pieces")
        if (vocabulary.size != expected) throw IOException("${vocabulary.size} pieces, expected $expected")
    } catch (error: Exception) { // a damaged zip and damaged JSON raise different errors
        throw BadModel("not a complete model (${error.message}): copy or export it again", error)
    }
    val format = json.getInt("format")
    if (format != FORMAT) throw BadModel("a model of format $format, expected $FORMAT: take this app's newer version")
    return checked(json) to vocabulary
}

private fun checked(json: JSONObject): About {
    val (task, form) = json.getString("task") to json.getString("form")
    if (task !in TASKS) throw BadModel("a $task, expected one of ${TASKS.joinToString(", ")}: export one of those")
    if (form != "one") throw BadModel("a file of form $form, expected form one: export it without --form")
    val shape = json.getJSONArray("image_shape")
    if (shape.length() != 3) throw BadModel("a model of clips, expected one of pictures: export one of those")
    val special = json.getJSONObject("special_ids")
    val spelling = json.optJSONObject("spelling")
    val rules = json.getJSONArray("join_rules")
    return About(
        task = task,
        height = shape.getInt(0),
        width = shape.getInt(1),
        resize = json.getString("resize"),
        maxLength = json.getInt("max_length"),
        labels = strings(json.getJSONArray("labels")),
        multiLabel = json.getBoolean("multi_label"),
        allowEmpty = json.getBoolean("allow_empty"),
        special = listOf("pad", "unk", "start", "end", "mask").associateWith { special.getInt(it) },
        unseen = json.getString("unseen"),
        gaps = json.getString("gaps"),
        joinRules = (0 until rules.length()).map { strings(rules.getJSONArray(it)).let { (from, to) -> from to to } },
        wordEnd = spelling?.getString("word_end"),
        ownTokenizer = json.has("rule")
    )
}

private fun strings(array: JSONArray) = (0 until array.length()).map { array.getString(it) }
