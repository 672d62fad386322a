// The screen: what the camera sees, two buttons, and what the model says.

import PhotosUI
import SwiftUI

@main
struct CaptionsApp: App {
    var body: some Scene {
        WindowGroup { Screen() }
    }
}

struct Screen: View {
    @StateObject private var work = Work()
    @StateObject private var camera = Camera()
    @State private var question = ""
    @State private var chosen: PhotosPickerItem?

    var body: some View {
        ScrollView {
            VStack(alignment: .leading, spacing: 16) {
                Preview(session: camera.session)
                    .frame(height: 320)
                    .accessibilityElement()
                    .accessibilityLabel("What the camera sees")
                if case .failed(let reason) = camera.state { Text(reason) }
                if work.asks {
                    TextField("Question or text", text: $question)
                        .textFieldStyle(.roundedBorder)
                }
                Text(work.shown)
                    .font(.title3)
                    .textSelection(.enabled)
                Button("Take a picture") {
                    Task { await work.say(question) { try await camera.take() } }
                }
                .buttonStyle(.borderedProminent)
                .disabled(!work.ready || camera.state != .ready)
                PhotosPicker("Choose a picture", selection: $chosen, matching: .images)
                    .buttonStyle(.bordered)
                    .disabled(!work.ready)
            }
            .padding()
        }
        .task { await work.open() }
        .task { await camera.start() }
        .onChange(of: chosen) { _, item in
            guard let item else { return }
            chosen = nil  // so that the same picture can be chosen again
            Task { await work.say(question) { try await content(of: item) } }
        }
    }

    private func content(of item: PhotosPickerItem) async throws -> Data {
        guard let data = try? await item.loadTransferable(type: Data.self) else {
            throw BadPicture(message: "it cannot be opened. Choose another")
        }
        return data
    }
}
