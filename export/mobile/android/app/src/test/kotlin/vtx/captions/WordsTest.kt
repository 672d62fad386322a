package vtx.captions

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

class WordsTest {
    private val captioner = Fixtures.about("captioner")
    private val vqa = Fixtures.about("vqa")

    @Test
    fun idsBecomeTheSentencesOfThePackage() {
        for (row in Fixtures.rows("words")) {
            val ids = Fixtures.numbers(row.getJSONArray("ids"))
            assertEquals(row.getString("text"), words(ids, captioner, Fixtures.vocabulary))
        }
    }

    @Test
    fun textsBecomeTheIdsOfThePackage() {
        for (row in Fixtures.rows("tokens")) {
            val ids = tokens(row.getString("text"), vqa, Fixtures.vocabulary)
            assertArrayEquals(row.getString("text"), Fixtures.numbers(row.getJSONArray("ids")), ids)
        }
    }

    @Test
    fun piecesThatSpellBytesAreJoined() {
        val row = Fixtures.cases.getJSONObject("spelled")
        val pieces = (0 until row.getJSONArray("pieces").length()).map { row.getJSONArray("pieces").getString(it) }
        val about = like(captioner, wordEnd = "")
        assertEquals(row.getString("text"), words(Fixtures.numbers(row.getJSONArray("ids")), about, pieces))
        val ended = pieces.take(5) + listOf("a</w>", "cat", "s</w>")
        assertEquals("a cats", words(intArrayOf(2, 5, 6, 7, 3), like(captioner, wordEnd = "</w>"), ended))
    }

    @Test
    fun textsThatTheModelCannotReadAreRefused() {
        for (text in listOf("", " \u200b\n", "\u0007", "cat ".repeat(4000))) {
            assertThrows(BadText::class.java) { tokens(text, vqa, Fixtures.vocabulary) }
        }
        val other = like(vqa, ownTokenizer = true)
        assertThrows(BadText::class.java) { tokens("a cat", other, Fixtures.vocabulary) }
    }

    @Test
    fun logitsBecomeAnswers() {
        assertEquals("yes", answer(floatArrayOf(-1f, 2f), vqa))
        assertEquals("no", answer(floatArrayOf(-1f, -2f), vqa))
        assertEquals("no, yes", answer(floatArrayOf(1f, 2f), like(vqa, multiLabel = true)))
        assertEquals("nothing", answer(floatArrayOf(-1f, -2f), like(vqa, multiLabel = true)))
        assertEquals("0.881", answer(floatArrayOf(2f), like(vqa, task = "matcher")))
    }

    private fun like(
        one: About,
        task: String = one.task,
        multiLabel: Boolean = one.multiLabel,
        wordEnd: String? = one.wordEnd,
        ownTokenizer: Boolean = one.ownTokenizer
    ) = About(
        task, one.height, one.width, one.resize, one.maxLength, one.labels, multiLabel, one.allowEmpty, one.special,
        one.unseen, one.gaps, one.joinRules, wordEnd, ownTokenizer
    )
}
