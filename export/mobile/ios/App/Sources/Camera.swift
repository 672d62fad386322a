// The camera: what it sees, and one picture of it.

import AVFoundation
import SwiftUI

/// Why there is no camera; the text is for the screen.
enum CameraState: Equatable {
    case starting, ready
    case failed(String)
}

final class Camera: NSObject, ObservableObject, AVCapturePhotoCaptureDelegate {
    @Published @MainActor private(set) var state = CameraState.starting
    let session = AVCaptureSession()
    private let output = AVCapturePhotoOutput()
    private let queue = DispatchQueue(label: "camera")  // the session blocks while it starts
    private var rotation: AVCaptureDevice.RotationCoordinator?
    private var waiting: CheckedContinuation<Data, Error>?  // only the queue's

    @MainActor func start() async {
        guard await AVCaptureDevice.requestAccess(for: .video) else {
            state = .failed("The app may not use the camera. Allow it in the phone's settings, or choose a picture.")
            return
        }
        state = await withCheckedContinuation { done in queue.async { done.resume(returning: self.started()) } }
    }

    /// One picture as an encoded file, with its orientation.
    func take() async throws -> Data {
        try await withCheckedThrowingContinuation { taken in
            queue.async {
                guard self.waiting == nil, let connection = self.output.connection(with: .video) else {
                    return taken.resume(throwing: BadPicture(message: "the camera is at work. Try again"))
                }
                self.waiting = taken
                if let angle = self.rotation?.videoRotationAngleForHorizonLevelCapture,
                    connection.isVideoRotationAngleSupported(angle)
                {
                    connection.videoRotationAngle = angle
                }
                self.output.capturePhoto(with: AVCapturePhotoSettings(), delegate: self)
            }
        }
    }

    func photoOutput(_ output: AVCapturePhotoOutput, didFinishProcessingPhoto photo: AVCapturePhoto, error: Error?) {
        let data = photo.fileDataRepresentation()
        queue.async {
            if let data, error == nil {
                self.waiting?.resume(returning: data)
            } else {
                let reason = error?.localizedDescription ?? "it gave no picture"
                self.waiting?.resume(throwing: BadPicture(message: "the camera failed (\(reason)). Try again"))
            }
            self.waiting = nil
        }
    }

    private func started() -> CameraState {
        if session.isRunning { return .ready }
        let missing = CameraState.failed("This phone has no camera that the app can use. Choose a picture instead.")
        guard let device = AVCaptureDevice.default(for: .video), let input = try? AVCaptureDeviceInput(device: device)
        else { return missing }
        session.beginConfiguration()
        session.sessionPreset = .photo
        if session.inputs.isEmpty && session.canAddInput(input) { session.addInput(input) }
        if session.outputs.isEmpty && session.canAddOutput(output) { session.addOutput(output) }
        session.commitConfiguration()
        guard output.connection(with: .video) != nil else { return missing }
        rotation = AVCaptureDevice.RotationCoordinator(device: device, previewLayer: nil)
        session.startRunning()
        return session.isRunning ? .ready : missing
    }
}

/// What the camera sees.
struct Preview: UIViewRepresentable {
    let session: AVCaptureSession

    final class Layer: UIView {
        override class var layerClass: AnyClass { AVCaptureVideoPreviewLayer.self }
    }

    func makeUIView(context: Context) -> Layer {
        let view = Layer()
        let layer = view.layer as! AVCaptureVideoPreviewLayer
        layer.session = session
        layer.videoGravity = .resizeAspect
        return view
    }

    func updateUIView(_ view: Layer, context: Context) {}
}
