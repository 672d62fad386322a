// Caption an image on iOS with a captioner's .tflite of form `one`.
// Does the same as run.py. Packages: TensorFlowLiteSwift (LiteRT's interpreter), ZIPFoundation. Written from their
// documentation, not compiled here.

import CoreGraphics
import Foundation
import TensorFlowLite
import ZIPFoundation

struct About: Decodable {
    let image_shape: [Int]
    let resize: String
    let special_ids: [String: Int]
    let join_rules: [[String]]
    let pieces: Int
}

enum Damaged: Error { case companions, resize(String) }

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
        try interpreter.copy(try pixels(image), toInputAt: 0)
        try interpreter.invoke()
        // The outputs of the only signature are `ids` (integers) and `score`.
        for index in 0..<interpreter.outputTensorCount {
            let output = try interpreter.output(at: index)
            guard output.dataType == .int32 else { continue }
            return words(output.data.withUnsafeBytes { $0.bindMemory(to: Int32.self).map(Int.init) })
        }
        throw Damaged.companions
    }

    /// The image at the model's size as RGB bytes.
    private func pixels(_ image: CGImage) throws -> Data {
        let (width, height) = (image.width, image.height)
        let canvas = CGContext(
            data: nil, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
            space: CGColorSpaceCreateDeviceRGB(), bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
        canvas.setFillColor(red: 1, green: 1, blue: 1, alpha: 1)  // under what is transparent
        canvas.fill(CGRect(x: 0, y: 0, width: width, height: height))
        canvas.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
        let rgbx = UnsafeRawBufferPointer(start: canvas.data!, count: 4 * width * height)
        return Data(try fitted(rgbx, width, height, about.image_shape[1], about.image_shape[0], about.resize))
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

/// Fit pixels (4 bytes each) to a size as RGB bytes, as `resize` of model.json says: "pad" (aspect ratio kept, white
/// borders), "stretch", "crop" (the middle in the aspect ratio of the size) or "shortest" (the shortest side fits, then
/// the middle), each also with "-bicubic" or "-lanczos". The same steps as in Pixels.kt, which is compared with Python.
func fitted(
    _ rgbx: UnsafeRawBufferPointer, _ width: Int, _ height: Int, _ toWidth: Int, _ toHeight: Int, _ resize: String
) throws -> [UInt8] {
    let parts = resize.split(separator: "-").map(String.init)
    let filter = parts.count > 1 ? parts[1] : "bilinear"
    var (rows, columns) = (toHeight, toWidth)
    var (down, across) = ((0.0, Double(height)), (0.0, Double(width)))  // the part that is read
    switch parts[0] {
    case "pad":
        let scale = min(Double(toWidth) / Double(width), Double(toHeight) / Double(height))
        rows = max(1, Int((Double(height) * scale + 0.5).rounded(.down)))
        columns = max(1, Int((Double(width) * scale + 0.5).rounded(.down)))
    case "shortest":
        rows = max(toHeight, toWidth * height / width)
        columns = max(toWidth, toHeight * width / height)
    case "crop":
        let tall = min(Double(height), Double(width * toHeight) / Double(toWidth))
        let wide = min(Double(width), Double(height * toWidth) / Double(toHeight))
        down = ((Double(height) - tall) / 2, (Double(height) + tall) / 2)
        across = ((Double(width) - wide) / 2, (Double(width) + wide) / 2)
    case "stretch": break
    default: throw Damaged.resize(resize)
    }
    let wide = means(width, columns, across, filter)  // columns first
    var between = [UInt8](repeating: 0, count: height * columns * 3)
    for y in 0..<height {
        for x in 0..<columns {
            for c in 0..<3 {
                between[(y * columns + x) * 3 + c] = wide[x].of { rgbx[4 * (y * width + $0) + c] }
            }
        }
    }
    let tall = means(height, rows, down, filter)
    var result = [UInt8](repeating: 255, count: toHeight * toWidth * 3)
    let (top, left) = ((toHeight - rows) / 2, (toWidth - columns) / 2)  // negative: cut off
    for y in max(0, top)..<min(toHeight, top + rows) {
        for x in max(0, left)..<min(toWidth, left + columns) {
            for c in 0..<3 {
                result[(y * toWidth + x) * 3 + c] = tall[y - top].of { between[($0 * columns + x - left) * 3 + c] }
            }
        }
    }
    return result
}

/// A new pixel: a weighted mean of old ones from `first` on.
private struct Mean {
    let first: Int
    let weights: [Double]

    func of(_ value: (Int) -> UInt8) -> UInt8 {
        var sum = 0.0
        for (i, weight) in weights.enumerated() { sum += weight * Double(value(first + i)) }
        return UInt8(min(255, max(0, sum.rounded())))
    }
}

/// The means that resize a part of one axis; they reach over a wider range where the image shrinks.
private func means(_ length: Int, _ size: Int, _ part: (Double, Double), _ filter: String) -> [Mean] {
    let step = (part.1 - part.0) / Double(size)
    let support = ["bicubic": 2.0, "lanczos": 3.0][filter] ?? 1.0
    let scale = max(step, 1)
    let reach = support * scale
    return (0..<size).map { to in
        let centre = part.0 + (Double(to) + 0.5) * step
        let (first, last) = (max(0, Int(centre - reach + 0.5)), min(length, Int(centre + reach + 0.5)))
        let weights = (first..<last).map { weight(abs(Double($0) + 0.5 - centre) / scale, filter) }
        let total = weights.reduce(0, +)
        return Mean(first: first, weights: weights.map { $0 / total })
    }
}

private func weight(_ x: Double, _ filter: String) -> Double {
    switch filter {
    case "bicubic": return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
    case "lanczos": return x < 3 ? sinc(x) * sinc(x / 3) : 0
    default: return max(0, 1 - x)
    }
}

private func sinc(_ x: Double) -> Double { x == 0 ? 1 : sin(Double.pi * x) / (Double.pi * x) }
