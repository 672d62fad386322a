// The model on a thread of its own; it stays while the phone is turned.

package vtx.captions

import android.app.Application
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.LiveData
import androidx.lifecycle.MutableLiveData
import java.io.File
import java.io.FileNotFoundException
import java.io.IOException
import java.util.concurrent.Executors

/** What the screen shows: a text, whether the model can be asked now, and whether it takes a text. */
class State(val text: String, val ready: Boolean, val asks: Boolean)

class Work(private val application: Application) : AndroidViewModel(application) {
    private val thread = Executors.newSingleThreadExecutor()
    private val shown = MutableLiveData(State(application.getString(R.string.opening), ready = false, asks = false))
    private var captioner: Captioner? = null // only the thread's

    val state: LiveData<State> get() = shown

    init {
        thread.execute { shown.postValue(opened()) }
    }

    /** Say what is on a picture, which is read on the model's thread, too. */
    fun say(text: String, read: () -> Picture) {
        val asks = shown.value?.asks ?: false
        shown.value = State(application.getString(R.string.busy), ready = false, asks = asks)
        thread.execute { shown.postValue(State(said(text, read), captioner != null, asks)) }
    }

    private fun opened(): State {
        fun bad(id: Int, error: Exception) = State(application.getString(id, error.message), ready = false, asks = false)
        return try {
            val model = Captioner(copied())
            captioner = model
            val ready = if (model.about.asks) R.string.ready_asks else R.string.ready
            State(application.getString(ready), ready = true, asks = model.about.asks)
        } catch (error: BadModel) {
            bad(R.string.bad_model, error)
        } catch (error: FileNotFoundException) {
            bad(R.string.no_model, error)
        } catch (error: IOException) {
            bad(R.string.bad_copy, error)
        } catch (error: RuntimeException) { // of LiteRT
            bad(R.string.bad_model, error)
        }
    }

    private fun said(text: String, read: () -> Picture): String = try {
        val picture = read()
        val start = System.nanoTime()
        val caption = captioner?.say(picture, text) ?: application.getString(R.string.no_model)
        application.getString(R.string.said, caption, (System.nanoTime() - start) / 1e9)
    } catch (error: BadText) {
        application.getString(R.string.bad_text, error.message)
    } catch (error: IOException) {
        application.getString(R.string.bad_picture, error.message)
    } catch (error: SecurityException) { // the gallery took its permission back
        application.getString(R.string.bad_picture, error.message)
    } catch (error: OutOfMemoryError) {
        application.getString(R.string.no_memory)
    } catch (error: RuntimeException) { // of LiteRT, or a resize that is not known
        application.getString(R.string.bad_model, error.message)
    }

    /** The model as a file, which the zip at its end needs; copied once after each installation. */
    private fun copied(): File {
        val file = File(application.noBackupFilesDir, "model.tflite")
        val installed = application.packageManager.getPackageInfo(application.packageName, 0).lastUpdateTime
        if (file.lastModified() >= installed) return file
        val part = File(application.noBackupFilesDir, "model.part")
        application.assets.open("model.tflite").use { from -> part.outputStream().use { from.copyTo(it) } }
        if (!part.renameTo(file)) throw IOException("it cannot be renamed")
        return file
    }

    override fun onCleared() {
        thread.execute { captioner?.close() }
        thread.shutdown()
    }
}
