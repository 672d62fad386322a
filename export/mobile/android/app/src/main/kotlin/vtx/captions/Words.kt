// How a text becomes ids and ids become a text, as pictures_and_words.py does it. No Android here.

package vtx.captions

import java.text.Normalizer
import java.util.Locale
import kotlin.math.exp

/** What model.json says of a model. */
class About(
    val task: String,
    val height: Int,
    val width: Int,
    val resize: String,
    val maxLength: Int,
    val labels: List<String>,
    val multiLabel: Boolean,
    val allowEmpty: Boolean,
    val special: Map<String, Int>,
    val unseen: String,
    val gaps: String,
    val joinRules: List<Pair<String, String>>,
    val wordEnd: String?, // null: pieces are of words; else their characters stand for bytes, and this ends a word
    val ownTokenizer: Boolean // texts are cut by a tokenizer.json, which this program does not read
) {
    val asks: Boolean get() = task != "captioner"
}

/** A text that the model cannot read; the message is for the screen. */
class BadText(message: String) : Exception(message)

/** The ids before the first end or padding, as a text. */
fun words(ids: IntArray, about: About, vocabulary: List<String>): String {
    val stops = setOf(about.special["end"], about.special["pad"])
    val pieces = ids.takeWhile { it !in stops }.filter { it >= about.special.size }.map { vocabulary[it] }
    if (about.wordEnd != null) return spelled(pieces.joinToString(""), about.wordEnd)
    return about.joinRules.fold(pieces.joinToString(" ")) { text, (pattern, rewrite) ->
        Regex(pattern).replace(text, rewrite.replace("\\1", "$1").replace("\\2", "$2"))
    }
}

/** Pieces of GPT-2 or CLIP, whose characters stand for bytes. */
private fun spelled(joined: String, wordEnd: String): String {
    val plain = (33..126) + (161..172) + (174..255)
    val table = plain.associateBy { it.toChar() }.toMutableMap()
    ((0..255) - plain).forEachIndexed { i, byte -> table[(256 + i).toChar()] = byte }
    val marked = joined.replace(if (wordEnd == "") " " else wordEnd, "\u0120") // which stands for a space
    return String(marked.mapNotNull { table[it]?.toByte() }.toByteArray(), Charsets.UTF_8).trim()
}

/** A text as ids: the start, then each word's longest matching pieces, then padding. */
fun tokens(text: String, about: About, vocabulary: List<String>): IntArray {
    if (about.ownTokenizer) throw BadText("this model cuts texts by a tokenizer.json, which this app does not read")
    if (text.toByteArray().size > MAX_TEXT) throw BadText("it has more than 10,000 bytes")
    val idOf = vocabulary.withIndex().associate { it.value to it.index }
    val ids = mutableListOf(about.special.getValue("start"))
    for (word in separated(normalized(text, about)).split(" ").filter { it != "" }) {
        ids += pieces(word, idOf) ?: listOf(about.special.getValue("unk"))
    }
    if (ids.size == 1 && !about.allowEmpty) throw BadText("it has no words")
    return IntArray(about.maxLength) { ids.getOrElse(it) { about.special.getValue("pad") } }
}

private const val MAX_TEXT = 10_000 // bytes

/** A text in lower case, in one form of each letter, without what is not seen. */
private fun normalized(text: String, about: About): String {
    val gaps = Regex(about.gaps)
    val seen = gaps.replace(Regex(about.unseen).replace(text, ""), " ")
    @Suppress("PLATFORM_CLASS_MAPPED_TO_KOTLIN") // Kotlin's own name of it changed with Kotlin 1.5
    val small = (Normalizer.normalize(seen, Normalizer.Form.NFKC) as java.lang.String).toLowerCase(Locale.ROOT)
    return gaps.replace(Normalizer.normalize(small, Normalizer.Form.NFKC), " ").trim(' ')
}

private val PUNCTUATION = setOf(
    Character.CONNECTOR_PUNCTUATION, Character.DASH_PUNCTUATION, Character.START_PUNCTUATION,
    Character.END_PUNCTUATION, Character.INITIAL_QUOTE_PUNCTUATION, Character.FINAL_QUOTE_PUNCTUATION,
    Character.OTHER_PUNCTUATION
)
private val IDEOGRAPHS = listOf(
    0x4E00..0x9FFF, 0x3400..0x4DBF, 0x20000..0x2A6DF, 0x2A700..0x2CEAF, 0xF900..0xFAFF, 0x2F800..0x2FA1F
)

/** Put spaces around punctuation and ideographs, and replace control and format characters by a space. */
private fun separated(text: String): String {
    val result = StringBuilder()
    var at = 0
    while (at < text.length) {
        val code = text.codePointAt(at)
        at += Character.charCount(code)
        val kind = Character.getType(code).toByte()
        val alone = kind in PUNCTUATION || (code in 33..126 && !Character.isLetterOrDigit(code)) ||
            IDEOGRAPHS.any { code in it }
        val hidden = kind == Character.CONTROL || kind == Character.FORMAT
        if (hidden) result.append(' ') else if (alone) result.append(' ').appendCodePoint(code).append(' ')
        else result.appendCodePoint(code)
    }
    return result.toString()
}

/** The ids of a word's longest matching pieces, or null if a part of it is in no piece. */
private fun pieces(word: String, idOf: Map<String, Int>): List<Int>? {
    if (word.toByteArray().size > 100) return null
    val ids = mutableListOf<Int>()
    var at = 0
    while (at < word.length) {
        val mark = if (at > 0) "##" else ""
        val end = (word.length downTo at + 1).firstOrNull { mark + word.substring(at, it) in idOf } ?: return null
        ids += idOf.getValue(mark + word.substring(at, end))
        at = end
    }
    return ids
}

/** What the logits of a vqa model, classifier or matcher mean. */
fun answer(logits: FloatArray, about: About): String {
    if (about.task == "matcher") return "%.3f".format(Locale.ROOT, 1 / (1 + exp(-logits[0].toDouble())))
    if (about.multiLabel) {
        return about.labels.filterIndexed { i, _ -> logits[i] > 0 }.joinToString(", ").ifEmpty { "nothing" }
    }
    return about.labels[logits.indices.sortedByDescending { logits[it] }.first()]
}
