import Foundation

@testable import Captions

/// What the package computes; tools/phone_fixtures.py writes it.
struct Fixtures: Decodable {
    struct Image: Decodable { let width: Int, height: Int, rgba: Data }
    struct Fit: Decodable { let picture: Int, resize: String, pixels: Data }
    struct Turn: Decodable { let orientation: Int, width: Int, numbers: [UInt8] }
    struct Row: Decodable { let ids: [Int], text: String }
    struct Zip: Decodable { let method: String, file: Data }
    struct Spelled: Decodable { let pieces: [String], ids: [Int], text: String }

    let captioner: About, vqa: About
    let vocabulary: [String]
    let shape: [Int]
    let pictures: [Image]
    let fits: [Fit]
    let turns: [Turn]
    let words: [Row], tokens: [Row]
    let spelled: Spelled
    let zips: [Zip]

    static let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("../../../fixtures/cases.json").standardizedFileURL
    static let cases = try! JSONDecoder().decode(Fixtures.self, from: Data(contentsOf: file))

    /// One of the models' model.json with some fields changed.
    static func json(_ name: String, _ changes: [String: Any] = [:]) throws -> Data {
        let all = try JSONSerialization.jsonObject(with: Data(contentsOf: file)) as! [String: Any]
        let model = (all[name] as! [String: Any]).merging(changes) { $1 }
        return try JSONSerialization.data(withJSONObject: model)
    }

    func picture(_ at: Int) -> Picture {
        Picture(rgba: [UInt8](pictures[at].rgba), width: pictures[at].width, height: pictures[at].height)
    }
}
