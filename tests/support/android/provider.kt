package androidx.camera.lifecycle

import android.content.Context
import androidx.camera.core.CameraSelector
import androidx.camera.core.UseCase
import androidx.lifecycle.LifecycleOwner
import java.util.concurrent.Executor
import java.util.concurrent.Future

interface ListenableFuture<T> : Future<T> { // of Guava
    fun addListener(listener: Runnable, executor: Executor)
}

class ProcessCameraProvider {
    companion object {
        @JvmStatic fun getInstance(context: Context): ListenableFuture<ProcessCameraProvider> = TODO()
    }

    fun hasCamera(selector: CameraSelector): Boolean = TODO()

    fun unbindAll() {}

    fun bindToLifecycle(owner: LifecycleOwner, selector: CameraSelector, vararg useCases: UseCase?) {}
}
