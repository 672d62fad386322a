// swift-tools-version:5.9
import PackageDescription

// What needs no phone: images and texts. The app, which adds the camera and the interpreter, is in App/.
let package = Package(
    name: "Captions",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "Captions", targets: ["Captions"])],
    targets: [
        .target(name: "Captions"),
        .testTarget(name: "CaptionsTests", dependencies: ["Captions"]),
    ]
)
