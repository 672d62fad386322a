package androidx.lifecycle

import android.app.Application

interface LifecycleOwner

interface ViewModelStoreOwner

fun interface Observer<T> {
    fun onChanged(value: T)
}

abstract class ViewModel {
    protected open fun onCleared() {}
}

open class AndroidViewModel(application: Application) : ViewModel()

class ViewModelProvider(owner: ViewModelStoreOwner) {
    fun <T : ViewModel> get(kind: Class<T>): T = TODO()
}

open class LiveData<T>(open val value: T? = null) {
    fun observe(owner: LifecycleOwner, observer: Observer<in T>) {}
}

class MutableLiveData<T>(override var value: T?) : LiveData<T>() {
    fun postValue(value: T) {}
}
