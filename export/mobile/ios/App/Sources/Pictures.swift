// Pictures of the library and of the camera, upright.

import Captions
import CoreGraphics
import Foundation
import ImageIO

/// A picture that cannot be used; the message is for the screen.
struct BadPicture: Error {
    let message: String
}

/// Read an encoded picture; a larger one than 2048 pixels a side is read smaller.
func read(_ data: Data) throws -> Picture {
    guard let source = CGImageSourceCreateWithData(data as CFData, nil), CGImageSourceGetCount(source) > 0 else {
        throw BadPicture(message: "it is no picture that this phone reads. Choose another")
    }
    let options: [CFString: Any] = [
        kCGImageSourceCreateThumbnailFromImageAlways: true, kCGImageSourceThumbnailMaxPixelSize: 2048,
    ]
    guard let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary) else {
        throw BadPicture(message: "it is cut off or damaged. Choose another")
    }
    let properties = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any]
    let orientation = properties?[kCGImagePropertyOrientation] as? Int ?? 1
    return upright(try picture(image), orientation)
}

/// The RGBA bytes of an image on white: Core Graphics draws no colours beside their transparency.
private func picture(_ image: CGImage) throws -> Picture {
    let (width, height) = (image.width, image.height)
    let canvas = CGContext(
        data: nil, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
        space: CGColorSpace(name: CGColorSpace.sRGB)!, bitmapInfo: CGImageAlphaInfo.premultipliedLast.rawValue)
    guard let canvas, let data = canvas.data else {
        throw BadPicture(message: "this phone has too little memory for it. Choose a smaller one")
    }
    canvas.setFillColor(red: 1, green: 1, blue: 1, alpha: 1)
    canvas.fill(CGRect(x: 0, y: 0, width: width, height: height))
    canvas.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
    let rgba = [UInt8](UnsafeRawBufferPointer(start: data, count: 4 * width * height))
    return Picture(rgba: rgba, width: width, height: height)
}
