package org.tensorflow.lite

import java.io.File

class Interpreter(file: File) : AutoCloseable {
    fun runSignature(inputs: Map<String, Any>, outputs: Map<String, Any>, signature: String) {}

    fun getOutputTensorFromSignature(output: String, signature: String) = Tensor()

    override fun close() {}
}

class Tensor {
    fun shape() = intArrayOf(1, 1)
}
