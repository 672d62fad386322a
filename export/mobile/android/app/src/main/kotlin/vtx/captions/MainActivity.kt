// The screen: what the camera sees, two buttons, and what the model says.

package vtx.captions

import android.Manifest
import android.content.pm.PackageManager
import android.os.Bundle
import android.util.Size
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageCapture
import androidx.camera.core.ImageCaptureException
import androidx.camera.core.ImageProxy
import androidx.camera.core.Preview
import androidx.camera.core.resolutionselector.ResolutionSelector
import androidx.camera.core.resolutionselector.ResolutionStrategy
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.view.PreviewView
import androidx.core.content.ContextCompat
import androidx.lifecycle.ViewModelProvider

class MainActivity : ComponentActivity() {
    private val preview by lazy { findViewById(R.id.preview) as PreviewView }
    private val camera by lazy { findViewById(R.id.camera) as TextView }
    private val question by lazy { findViewById(R.id.question) as EditText }
    private val result by lazy { findViewById(R.id.result) as TextView }
    private val takeButton by lazy { findViewById(R.id.take) as Button }
    private val pickButton by lazy { findViewById(R.id.pick) as Button }
    private lateinit var work: Work
    private var capture: ImageCapture? = null // null: there is no camera, or it may not be used

    private val picker = registerForActivityResult(ActivityResultContracts.PickVisualMedia()) { uri ->
        if (uri != null) say { read(contentResolver, uri) }
    }
    private val permission = registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted ->
        if (granted) startCamera() else withoutCamera(getString(R.string.camera_refused))
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.screen)
        work = ViewModelProvider(this).get(Work::class.java)
        work.state.observe(this) { show(it) }
        takeButton.setOnClickListener { take() }
        pickButton.setOnClickListener {
            picker.launch(PickVisualMediaRequest(ActivityResultContracts.PickVisualMedia.ImageOnly))
        }
        if (!packageManager.hasSystemFeature(PackageManager.FEATURE_CAMERA_ANY)) {
            withoutCamera(getString(R.string.no_camera))
        } else if (!mayUseCamera() && savedInstanceState == null) {
            permission.launch(Manifest.permission.CAMERA)
        } else if (!mayUseCamera()) {
            withoutCamera(getString(R.string.camera_refused))
        }
    }

    override fun onStart() {
        super.onStart()
        if (capture == null && mayUseCamera()) startCamera() // it may have been allowed in the settings meanwhile
    }

    private fun mayUseCamera() =
        packageManager.hasSystemFeature(PackageManager.FEATURE_CAMERA_ANY) &&
            checkSelfPermission(Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED

    private fun say(read: () -> Picture) = work.say(question.text.toString(), read)

    private fun show(state: State) {
        result.text = state.text
        question.visibility = if (state.asks) View.VISIBLE else View.GONE
        pickButton.isEnabled = state.ready
        takeButton.isEnabled = state.ready && capture != null
    }

    private fun startCamera() {
        val provider = ProcessCameraProvider.getInstance(this)
        provider.addListener({
            try {
                val cameras = provider.get()
                val back = CameraSelector.DEFAULT_BACK_CAMERA
                val chosen = if (cameras.hasCamera(back)) back else CameraSelector.DEFAULT_FRONT_CAMERA
                val enough = ResolutionStrategy(
                    Size(1280, 960), ResolutionStrategy.FALLBACK_RULE_CLOSEST_HIGHER_THEN_LOWER
                )
                val sizes = ResolutionSelector.Builder().setResolutionStrategy(enough).build()
                val taking = ImageCapture.Builder().setResolutionSelector(sizes).build()
                val seen = Preview.Builder().build()
                seen.setSurfaceProvider(preview.surfaceProvider)
                cameras.unbindAll()
                cameras.bindToLifecycle(this, chosen, seen, taking)
                capture = taking
                camera.visibility = View.GONE
                work.state.value?.let { show(it) }
            } catch (error: Exception) { // the camera is broken, or another program holds it
                withoutCamera(getString(R.string.no_camera))
            }
        }, ContextCompat.getMainExecutor(this))
    }

    private fun take() {
        capture?.takePicture(ContextCompat.getMainExecutor(this), object : ImageCapture.OnImageCapturedCallback() {
            override fun onCaptureSuccess(image: ImageProxy) =
                say { image.use { upright(picture(it.toBitmap()), orientationOf(it.imageInfo.rotationDegrees)) } }

            override fun onError(exception: ImageCaptureException) =
                withoutCamera(getString(R.string.camera_failed, exception.message))
        })
    }

    /** Say why there is no picture of the camera. */
    private fun withoutCamera(reason: String) {
        camera.text = reason
        camera.visibility = View.VISIBLE
    }
}
