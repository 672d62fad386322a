package vtx.captions

import java.io.File
import org.json.JSONArray
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class CompanionsTest {
    private fun model() = JSONObject(Fixtures.cases.getJSONObject("vqa").toString())

    private fun refusal(file: File) = assertThrows(BadModel::class.java) { companions(file) }.message!!

    @Test
    fun theZipAtTheEndIsRead() {
        val (about, vocabulary) = companions(Fixtures.file(model().toString()))
        assertEquals(Fixtures.vocabulary, vocabulary)
        assertEquals(listOf("no", "yes"), about.labels)
        assertEquals(32 to 16, about.height to about.width)
        assertTrue(about.asks)
    }

    @Test
    fun aModelOfAnotherKindIsRefused() {
        val clips = JSONArray(listOf(4, 32, 16, 3))
        for ((name, value, said) in listOf(
            Triple("format", 2, "format 2, expected 1"), Triple("task", "generator", "generator, expected one of"),
            Triple("form", "split", "form split, expected form one"), Triple("image_shape", clips, "clips")
        )) {
            val found = refusal(Fixtures.file(model().put(name, value).toString()))
            assertTrue(found, found.contains(said))
        }
    }

    @Test
    fun aDamagedOrMissingFileIsRefused() {
        val whole = Fixtures.file(model().toString()).readBytes()
        val damaged = File.createTempFile("damaged", ".tflite").also { it.deleteOnExit() }
        for (content in listOf(ByteArray(0), whole.copyOf(100), whole.copyOf(whole.size - 200), ByteArray(5000))) {
            damaged.writeBytes(content)
            assertTrue(refusal(damaged).contains("not a complete model"))
        }
        assertTrue(refusal(File("no such file")).contains("not a complete model"))
        assertTrue(refusal(Fixtures.file("{")).contains("not a complete model"))
        assertTrue(refusal(Fixtures.file(model().toString(), "a\nb\n")).contains("2 pieces, expected"))
    }
}
