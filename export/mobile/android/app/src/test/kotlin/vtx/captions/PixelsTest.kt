package vtx.captions

import kotlin.math.abs
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class PixelsTest {
    @Test
    fun everyRuleGivesThePixelsOfThePackage() {
        val (height, width) = Fixtures.numbers(Fixtures.all("shape")).toList()
        val fits = Fixtures.rows("fits")
        assertTrue(fits.size >= 48)
        for (fit in fits) {
            val picture = Fixtures.picture(fit.getInt("picture"))
            val resize = fit.getString("resize")
            val found = fitted(picture.colours, picture.width, picture.height, width, height, resize)
            val expected = Fixtures.bytes(fit.getString("pixels"))
            assertEquals(expected.size, found.size)
            val off = found.indices.map { abs((found[it].toInt() and 255) - (expected[it].toInt() and 255)) }
            assertTrue("$resize of picture ${fit.getInt("picture")}: $off levels off", off.all { it <= 2 })
        }
    }

    @Test
    fun anUnknownRuleIsRefused() {
        val error = assertThrows(IllegalArgumentException::class.java) { fitted(IntArray(4), 2, 2, 1, 1, "squeeze") }
        assertTrue(error.message!!.contains("squeeze"))
    }

    @Test
    fun picturesAreTurnedUpright() {
        for (turn in Fixtures.rows("turns")) {
            val found = upright(Picture(intArrayOf(1, 2, 3, 4, 5, 6), 3, 2), turn.getInt("orientation"))
            assertEquals(turn.getInt("width"), found.width)
            assertEquals(6 / turn.getInt("width"), found.height)
            assertArrayEquals(Fixtures.numbers(turn.getJSONArray("numbers")), found.colours)
        }
    }

    @Test
    fun aCamerasTurnsAreClockwise() {
        val picture = Picture(intArrayOf(1, 2, 3, 4, 5, 6), 3, 2)
        assertArrayEquals(intArrayOf(4, 1, 5, 2, 6, 3), upright(picture, orientationOf(90)).colours)
        assertArrayEquals(intArrayOf(6, 5, 4, 3, 2, 1), upright(picture, orientationOf(180)).colours)
        assertArrayEquals(intArrayOf(3, 6, 2, 5, 1, 4), upright(picture, orientationOf(270)).colours)
        assertArrayEquals(picture.colours, upright(picture, orientationOf(0)).colours)
    }
}
