package androidx.camera.core

import android.graphics.Bitmap
import androidx.camera.core.resolutionselector.ResolutionSelector
import java.util.concurrent.Executor

class CameraSelector {
    companion object {
        @JvmField val DEFAULT_BACK_CAMERA = CameraSelector()

        @JvmField val DEFAULT_FRONT_CAMERA = CameraSelector()
    }
}

abstract class UseCase

interface ImageInfo {
    val rotationDegrees: Int
}

interface ImageProxy : AutoCloseable {
    val imageInfo: ImageInfo

    fun toBitmap(): Bitmap

    override fun close()
}

class ImageCaptureException : Exception()

class ImageCapture : UseCase() {
    abstract class OnImageCapturedCallback {
        open fun onCaptureSuccess(image: ImageProxy) {}

        open fun onError(exception: ImageCaptureException) {}
    }

    class Builder {
        fun setResolutionSelector(selector: ResolutionSelector): Builder = this

        fun build(): ImageCapture = TODO()
    }

    fun takePicture(executor: Executor, callback: OnImageCapturedCallback) {}
}

class Preview : UseCase() {
    interface SurfaceProvider

    class Builder {
        fun build(): Preview = TODO()
    }

    fun setSurfaceProvider(provider: SurfaceProvider?) {}
}
