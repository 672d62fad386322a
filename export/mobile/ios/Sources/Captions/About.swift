// What model.json says of a model, and whether this app can run it.

import Foundation

/// A model's file that cannot be used, or a text that the model cannot read; the message is for the screen.
public struct BadModel: Error, Equatable {
    public let message: String

    public init(_ message: String) {
        self.message = message
    }
}

public struct BadText: Error, Equatable {
    public let message: String
}

public struct About: Decodable {
    public struct Spelling: Decodable {
        public let word_end: String
    }

    public var format: Int
    public var task: String
    public var form: String
    public var image_shape: [Int]
    public var resize: String
    public var max_length: Int
    public var labels: [String]
    public var multi_label: Bool
    public var allow_empty: Bool
    public var pieces: Int
    public var special_ids: [String: Int]
    public var unseen: String
    public var gaps: String
    public var join_rules: [[String]]
    public var spelling: Spelling?  // nil: pieces are of words; else their characters stand for bytes
    public var ownTokenizer: Bool  // texts are cut by a tokenizer.json, which this app does not read

    enum CodingKeys: String, CodingKey {
        case format, task, form, image_shape, resize, max_length, labels, multi_label, allow_empty, pieces, special_ids
        case unseen, gaps, join_rules, spelling
        case ownTokenizer = "rule"
    }

    public var asks: Bool { task != "captioner" }
}

extension About {
    public init(from decoder: Decoder) throws {
        let json = try decoder.container(keyedBy: CodingKeys.self)
        format = try json.decode(Int.self, forKey: .format)
        task = try json.decode(String.self, forKey: .task)
        form = try json.decode(String.self, forKey: .form)
        image_shape = try json.decode([Int].self, forKey: .image_shape)
        resize = try json.decode(String.self, forKey: .resize)
        max_length = try json.decode(Int.self, forKey: .max_length)
        labels = try json.decode([String].self, forKey: .labels)
        multi_label = try json.decode(Bool.self, forKey: .multi_label)
        allow_empty = try json.decode(Bool.self, forKey: .allow_empty)
        pieces = try json.decode(Int.self, forKey: .pieces)
        special_ids = try json.decode([String: Int].self, forKey: .special_ids)
        unseen = try json.decode(String.self, forKey: .unseen)
        gaps = try json.decode(String.self, forKey: .gaps)
        join_rules = try json.decode([[String]].self, forKey: .join_rules)
        spelling = try json.decodeIfPresent(Spelling.self, forKey: .spelling)
        ownTokenizer = json.contains(.ownTokenizer)
    }
}

/// A model's description and its vocabulary, from model.json and vocabulary.txt, after checking that this app can run it.
public func companions(_ json: Data, _ lines: Data) throws -> (About, [String]) {
    let about: About
    do {
        about = try JSONDecoder().decode(About.self, from: json)
    } catch {
        throw BadModel("not a complete model (model.json cannot be read): copy or export it again")
    }
    guard about.format == 1 else {
        throw BadModel("a model of format \(about.format), expected 1: take this app's newer version")
    }
    var pieces = lines.split(separator: 10, omittingEmptySubsequences: false).map { String(decoding: $0, as: UTF8.self) }
    if pieces.last == "" { pieces.removeLast() }
    guard pieces.count == about.pieces else {
        throw BadModel("not a complete model (\(pieces.count) pieces, expected \(about.pieces)): copy or export it again")
    }
    let tasks = ["captioner", "vqa", "classifier", "matcher"]
    guard tasks.contains(about.task) else {
        throw BadModel("a \(about.task), expected one of \(tasks.joined(separator: ", ")): export one of those")
    }
    guard about.form == "one" else {
        throw BadModel("a file of form \(about.form), expected form one: export it without --form")
    }
    guard about.image_shape.count == 3 else {
        throw BadModel("a model of clips, expected one of pictures: export one of those")
    }
    guard ["pad", "unk", "start", "end", "mask"].allSatisfy({ about.special_ids[$0] != nil }) else {
        throw BadModel("not a complete model (a special id is missing): copy or export it again")
    }
    return (about, pieces)
}
