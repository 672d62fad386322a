// How a text becomes ids and ids become a text, as pictures_and_words.py does it.

import Foundation

/// The ids before the first end or padding, as a text.
public func words(_ ids: [Int], _ about: About, _ vocabulary: [String]) -> String {
    let stops = [about.special_ids["end"]!, about.special_ids["pad"]!]
    let written = ids.prefix { !stops.contains($0) }.filter { $0 >= about.special_ids.count }
    let pieces = written.map { vocabulary[$0] }
    if let spelling = about.spelling { return spelled(pieces.joined(), spelling.word_end) }
    return about.join_rules.reduce(pieces.joined(separator: " ")) { text, rule in
        let rewrite = rule[1].replacingOccurrences(of: "\\1", with: "$1").replacingOccurrences(of: "\\2", with: "$2")
        return text.replacingOccurrences(of: rule[0], with: rewrite, options: .regularExpression)
    }
}

/// Pieces of GPT-2 or CLIP, whose characters stand for bytes.
private func spelled(_ joined: String, _ wordEnd: String) -> String {
    let plain = Array(33...126) + Array(161...172) + Array(174...255)
    var byteOf = [Unicode.Scalar: UInt8]()
    for byte in plain { byteOf[Unicode.Scalar(UInt8(byte))] = UInt8(byte) }
    for (i, byte) in (0...255).filter({ !plain.contains($0) }).enumerated() {
        byteOf[Unicode.Scalar(UInt32(256 + i))!] = UInt8(byte)
    }
    let marked = joined.replacingOccurrences(of: wordEnd.isEmpty ? " " : wordEnd, with: "\u{120}")  // stands for a space
    let text = String(decoding: marked.unicodeScalars.compactMap { byteOf[$0] }, as: UTF8.self)
    return text.trimmingCharacters(in: .whitespacesAndNewlines)
}

/// A text as ids: the start, then each word's longest matching pieces, then padding.
public func tokens(_ text: String, _ about: About, _ vocabulary: [String]) throws -> [Int32] {
    guard !about.ownTokenizer else {
        throw BadText(message: "this model cuts texts by a tokenizer.json, which this app does not read")
    }
    guard text.utf8.count <= 10_000 else { throw BadText(message: "it has more than 10,000 bytes") }
    // By bytes: for Swift, strings are equal if they look the same.
    let idOf = Dictionary(vocabulary.enumerated().map { (Array($1.utf8), $0) }, uniquingKeysWith: { first, _ in first })
    var ids = [about.special_ids["start"]!]
    for word in separated(normalized(text, about)).split(separator: 32) {
        ids += pieces(Array(word), idOf) ?? [about.special_ids["unk"]!]
    }
    guard ids.count > 1 || about.allow_empty else { throw BadText(message: "it has no words") }
    let padding = about.special_ids["pad"]!
    return (0..<about.max_length).map { Int32($0 < ids.count ? ids[$0] : padding) }
}

/// A text in lower case, in one form of each letter, without what is not seen.
private func normalized(_ text: String, _ about: About) -> String {
    func without(_ pattern: String, _ text: String, _ with: String = "") -> String {
        text.replacingOccurrences(of: pattern, with: with, options: .regularExpression)
    }
    let seen = without(about.gaps, without(about.unseen, text), " ").precomposedStringWithCompatibilityMapping
    // Swift's `lowercased` does not know that a sigma ends a word.
    let final = without("(?<=[\\p{L}\\p{Mn}])\u{3A3}(?!\\p{Mn}*\\p{L})", seen, "\u{3C2}")
    return without(about.gaps, final.lowercased().precomposedStringWithCompatibilityMapping, " ")
}

private let ideographs: [ClosedRange<UInt32>] = [
    0x4E00...0x9FFF, 0x3400...0x4DBF, 0x20000...0x2A6DF, 0x2A700...0x2CEAF, 0xF900...0xFAFF, 0x2F800...0x2FA1F,
]

/// A text as UTF-8, with spaces around punctuation and ideographs, and in place of control and format characters.
private func separated(_ text: String) -> [UInt8] {
    var result = [UInt8]()
    for scalar in text.unicodeScalars {
        let (alone, hidden) = kind(scalar)
        let bytes = Array(String(scalar).utf8)
        result += hidden ? [32] : alone ? [32] + bytes + [32] : bytes
    }
    return result
}

private func kind(_ scalar: Unicode.Scalar) -> (alone: Bool, hidden: Bool) {
    switch scalar.properties.generalCategory {
    case .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation, .initialPunctuation,
        .finalPunctuation, .otherPunctuation:
        return (true, false)
    case .control, .format: return (false, true)
    default:
        let sign = (33...126).contains(scalar.value) && !scalar.properties.isAlphabetic
        let digit = (48...57).contains(scalar.value)
        return (sign && !digit || ideographs.contains { $0.contains(scalar.value) }, false)
    }
}

/// The ids of a word's longest matching pieces, or nil if a part of it is in no piece.
private func pieces(_ word: [UInt8], _ idOf: [[UInt8]: Int]) -> [Int]? {
    guard word.count <= 100 else { return nil }
    var (ids, at) = ([Int](), 0)
    while at < word.count {
        let mark: [UInt8] = at > 0 ? [35, 35] : []  // ##
        var end = word.count
        while end > at && idOf[mark + word[at..<end]] == nil { end -= 1 }
        guard end > at else { return nil }
        ids.append(idOf[mark + word[at..<end]]!)
        at = end
    }
    return ids
}

/// What the logits of a vqa model, classifier or matcher mean.
public func answer(_ logits: [Float], _ about: About) -> String {
    if about.task == "matcher" { return String(format: "%.3f", 1 / (1 + exp(-Double(logits[0])))) }
    if about.multi_label {
        let chosen = zip(about.labels, logits).filter { $1 > 0 }.map { $0.0 }
        return chosen.isEmpty ? "nothing" : chosen.joined(separator: ", ")
    }
    return about.labels[logits.indices.max { logits[$0] < logits[$1] }!]
}
