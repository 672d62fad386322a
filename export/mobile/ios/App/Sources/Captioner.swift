// Run a model's .tflite of form `one`: a captioner, or a model that also takes a text.

import Captions
import Foundation
import TensorFlowLite  // LiteRT's interpreter, by the name of its pod

final class Captioner {
    let about: About
    private let vocabulary: [String]
    private let runner: SignatureRunner

    init(_ file: URL) throws {
        let content = try Data(contentsOf: file, options: .mappedIfSafe)
        let (json, lines) = (try unzipped("model.json", from: content), try unzipped("vocabulary.txt", from: content))
        (about, vocabulary) = try companions(json, lines)
        do {  // The decoding loop runs on the CPU. With form `split`, `encode` can run on a delegate.
            runner = try Interpreter(modelPath: file.path).signatureRunner(with: "serving_default")
        } catch {
            throw BadModel("LiteRT cannot read it (\(error.localizedDescription)): copy or export it again")
        }
    }

    /// A caption of an upright picture, or what the model answers to a text about it.
    func say(_ picture: Picture, _ text: String) throws -> String {
        let (height, width) = (about.image_shape[0], about.image_shape[1])
        var inputs = ["image": Data(try fitted(picture, width, height, about.resize))]
        if about.asks { inputs["tokens"] = try tokens(text, about, vocabulary).withUnsafeBytes { Data($0) } }
        try runner.invoke(with: inputs)
        if about.asks { return answer(numbers(try runner.output(named: "logits").data), about) }
        let ids: [Int32] = numbers(try runner.output(named: "ids").data)
        return words(ids.map(Int.init), about, vocabulary)
    }

    private func numbers<Number>(_ data: Data) -> [Number] {
        data.withUnsafeBytes { Array($0.bindMemory(to: Number.self)) }
    }
}
