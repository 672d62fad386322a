// The model, away from the main thread, and what the screen shows of it.

import Accessibility
import Captions
import Foundation
import SwiftUI

/// The model's only user: one picture at a time.
actor Model {
    private var captioner: Captioner?

    /// Open the model and return whether it takes a text.
    func open() throws -> Bool {
        guard let file = Bundle.main.url(forResource: "model", withExtension: "tflite") else {
            throw BadModel("this app was built without one. Put model.tflite into App and build it again")
        }
        let captioner = try Captioner(file)
        self.captioner = captioner
        return captioner.about.asks
    }

    /// What the model says, and the seconds that it took.
    func say(_ data: Data, _ text: String) throws -> (String, Double) {
        guard let captioner else { throw BadModel("it was not opened") }
        let picture = try read(data)
        let start = Date()
        return (try captioner.say(picture, text), Date().timeIntervalSince(start))
    }
}

@MainActor
final class Work: ObservableObject {
    @Published private(set) var shown = "The model is being opened."
    @Published private(set) var ready = false
    @Published private(set) var asks = false
    private let model = Model()

    func open() async {
        guard !ready else { return }
        do {
            asks = try await model.open()
            ready = true
            show(asks ? "Write a question or a text, then take or choose a picture." : "Take or choose a picture.")
        } catch {
            show(reason(error))
        }
    }

    /// Say what is on a picture.
    func say(_ text: String, _ picture: @escaping () async throws -> Data) async {
        guard ready else { return }
        ready = false
        shown = "The model is at work."
        do {
            let (said, seconds) = try await model.say(picture(), text)
            show(said + "\n" + String(format: "%.2f seconds", seconds))
        } catch {
            show(reason(error))
        }
        ready = true
    }

    private func reason(_ error: Error) -> String {
        switch error {
        case let bad as BadModel: return "The model cannot be used: \(bad.message)"
        case let bad as BadText: return "The text cannot be used: \(bad.message)"
        case let bad as BadPicture: return "The picture cannot be used: \(bad.message)"
        default: return "The model cannot be used: \(error.localizedDescription)"
        }
    }

    private func show(_ text: String) {
        shown = text
        AccessibilityNotification.Announcement(text).post()
    }
}
