// Caption an image on iOS with a captioner's .tflite of form `one`.
// Does the same as run.py. Packages: TensorFlowLiteSwift (LiteRT's interpreter), ZIPFoundation. Written from their
// documentation, not compiled here.

import CoreGraphics
import Foundation
import TensorFlowLite
import ZIPFoundation

struct About: Decodable {
    let image_shape: [Int]
    let special_ids: [String: Int]
    let join_rules: [[String]]
    let pieces: Int
}

enum Damaged: Error { case companions }

final class Captioner {
    private let about: About
    private let vocabulary: [String]
    private let interpreter: Interpreter

    init(path: String) throws {
        // The vocabulary and model.json are a zip at the end of the model's file.
        let archive = try Archive(url: URL(fileURLWithPath: path), accessMode: .read)
        func read(_ name: String) throws -> Data {
            guard let entry = archive[name] else { throw Damaged.companions }
            var content = Data()
            _ = try archive.extract(entry) { content.append($0) }
            return content
        }
        about = try JSONDecoder().decode(About.self, from: read("model.json"))
        vocabulary = String(decoding: try read("vocabulary.txt"), as: UTF8.self).split(separator: "\n").map(String.init)
        guard vocabulary.count == about.pieces else { throw Damaged.companions }
        // The decoding loop runs on the CPU. With form `split`, `encode` can run on a delegate.
        interpreter = try Interpreter(modelPath: path)
        try interpreter.allocateTensors()
    }

    func caption(_ image: CGImage) throws -> String {
        try interpreter.copy(pixels(image), toInputAt: 0)
        try interpreter.invoke()
        // The outputs of the only signature are `ids` (integers) and `score`.
        for index in 0..<interpreter.outputTensorCount {
            let output = try interpreter.output(at: index)
            guard output.dataType == .int32 else { continue }
            return words(output.data.withUnsafeBytes { $0.bindMemory(to: Int32.self).map(Int.init) })
        }
        throw Damaged.companions
    }

    /// The image at the model's size as RGB bytes: aspect ratio kept, white borders.
    private func pixels(_ image: CGImage) -> Data {
        let (height, width) = (about.image_shape[0], about.image_shape[1])
        let scale = min(Double(width) / Double(image.width), Double(height) / Double(image.height))
        let inner = [image.width, image.height].map { max(1, Int((Double($0) * scale + 0.5).rounded(.down))) }
        let canvas = CGContext(
            data: nil, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
            space: CGColorSpaceCreateDeviceRGB(), bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
        canvas.setFillColor(red: 1, green: 1, blue: 1, alpha: 1)
        canvas.fill(CGRect(x: 0, y: 0, width: width, height: height))
        canvas.interpolationQuality = .medium
        let top = (height - inner[1]) / 2  // the canvas counts rows from the bottom
        canvas.draw(
            image,
            in: CGRect(x: (width - inner[0]) / 2, y: height - top - inner[1], width: inner[0], height: inner[1]))
        let bytes = UnsafeRawBufferPointer(start: canvas.data!, count: 4 * width * height)
        return Data((0..<width * height).flatMap { [bytes[4 * $0], bytes[4 * $0 + 1], bytes[4 * $0 + 2]] })
    }

    /// The ids before the first end or padding, as a text.
    private func words(_ ids: [Int]) -> String {
        let stops = [about.special_ids["end"]!, about.special_ids["pad"]!]
        let written = ids.prefix { !stops.contains($0) }.filter { $0 >= about.special_ids.count }
        return about.join_rules.reduce(written.map { vocabulary[$0] }.joined(separator: " ")) { text, rule in
            text.replacingOccurrences(
                of: rule[0], with: rule[1].replacingOccurrences(of: "\\1", with: "$1"), options: .regularExpression)
        }
    }
}
