// The part of TensorFlowLiteSwift that Captioner.swift uses, so that it compiles where there is no pod.

import Foundation

public struct Tensor {
    public let data: Data
}

public final class SignatureRunner {
    public func invoke(with inputs: [String: Data]) throws {}

    public func output(named name: String) throws -> Tensor { Tensor(data: Data()) }
}

public final class Interpreter {
    public init(modelPath: String) throws {}

    public func signatureRunner(with key: String) throws -> SignatureRunner { SignatureRunner() }
}
