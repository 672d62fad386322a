// How an image is prepared: upright, on white, at the model's size. No UIKit here: it runs on Linux, too.

import Foundation

/// RGBA bytes, row by row.
public struct Picture {
    public let rgba: [UInt8]
    public let width: Int
    public let height: Int

    public init(rgba: [UInt8], width: Int, height: Int) {
        (self.rgba, self.width, self.height) = (rgba, width, height)
    }
}

/// Turn a picture upright, as its EXIF orientation (1 to 8) says; another number turns nothing.
public func upright(_ picture: Picture, _ orientation: Int) -> Picture {
    let (w, h) = (picture.width, picture.height)
    // Where the new picture's first pixel was, and how far it is from there to its neighbours across and down.
    let start: Int, across: Int, down: Int
    switch orientation {
    case 2: (start, across, down) = (w - 1, -1, w)
    case 3: (start, across, down) = (w * h - 1, -1, -w)
    case 4: (start, across, down) = (w * (h - 1), 1, -w)
    case 5: (start, across, down) = (0, w, 1)
    case 6: (start, across, down) = (w * (h - 1), -w, 1)
    case 7: (start, across, down) = (w * h - 1, -w, -1)
    case 8: (start, across, down) = (w - 1, w, -1)
    default: return picture
    }
    let (width, height) = orientation < 5 ? (w, h) : (h, w)
    var rgba = [UInt8](repeating: 0, count: 4 * w * h)
    for y in 0..<height {
        for x in 0..<width {
            let (to, from) = (4 * (y * width + x), 4 * (start + x * across + y * down))
            for c in 0..<4 { rgba[to + c] = picture.rgba[from + c] }
        }
    }
    return Picture(rgba: rgba, width: width, height: height)
}

/// Fit a picture to a size as RGB bytes, as `resize` of model.json says: transparency on white, then "pad" (aspect ratio
/// kept, white borders), "stretch", "crop" (the middle in the aspect ratio of the size) or "shortest" (the shortest side
/// fits, then the middle), each also with "-bicubic" or "-lanczos". The same steps as in Pixels.kt.
public func fitted(_ picture: Picture, _ toWidth: Int, _ toHeight: Int, _ resize: String) throws -> [UInt8] {
    let (width, height) = (picture.width, picture.height)
    let parts = resize.split(separator: "-").map(String.init)
    let filter = parts.count > 1 ? parts[1] : "bilinear"
    var (rows, columns) = (toHeight, toWidth)
    var (down, across) = ((0.0, Double(height)), (0.0, Double(width)))  // the part that is read
    switch parts.first ?? "" {
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
    default: throw BadModel("it resizes pictures by \"\(resize)\", which is not known: take this app's newer version")
    }
    let wide = means(width, columns, across, filter)  // columns first
    var between = [UInt8](repeating: 0, count: height * columns * 3)
    picture.rgba.withUnsafeBufferPointer { rgba in
        for y in 0..<height {
            for x in 0..<columns {
                for c in 0..<3 {
                    between[(y * columns + x) * 3 + c] = wide[x].of { onWhite(rgba, 4 * (y * width + $0), c) }
                }
            }
        }
    }
    let tall = means(height, rows, down, filter)
    var result = [UInt8](repeating: 255, count: toHeight * toWidth * 3)
    let (top, left) = ((toHeight - rows) / 2, (toWidth - columns) / 2)  // negative: cut off
    between.withUnsafeBufferPointer { between in
        for y in max(0, top)..<min(toHeight, top + rows) {
            for x in max(0, left)..<min(toWidth, left + columns) {
                for c in 0..<3 {
                    result[(y * toWidth + x) * 3 + c] = tall[y - top].of { between[($0 * columns + x - left) * 3 + c] }
                }
            }
        }
    }
    return result
}

private func onWhite(_ rgba: UnsafeBufferPointer<UInt8>, _ at: Int, _ channel: Int) -> UInt8 {
    let (value, alpha) = (rgba[at + channel], rgba[at + 3])
    if alpha == 255 { return value }
    return UInt8((255 + (Double(value) - 255) * Double(alpha) / 255).rounded())
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
