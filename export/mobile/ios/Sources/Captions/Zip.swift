// The zip at the end of a model's file: as much of the format as an exported model uses.

import Foundation

private let damaged = BadModel("not a complete model (its zip is cut off or damaged): copy or export it again")

/// The content of a file in the zip at the end of a model's file.
public func unzipped(_ name: String, from file: Data) throws -> Data {
    func number(_ at: Int, _ count: Int) throws -> Int {
        guard at >= 0, at + count <= file.count else { throw damaged }
        return (0..<count).reduce(0) { $0 | Int(file[file.startIndex + at + $1]) << (8 * $1) }
    }
    // The directory's end is the last thing in the file, but for a comment.
    let places = stride(from: file.count - 22, through: max(0, file.count - 65_557), by: -1)
    guard let end = try places.first(where: { try number($0, 4) == 0x0605_4b50 }) else { throw damaged }
    let (entries, size, offset) = (try number(end + 10, 2), try number(end + 12, 4), try number(end + 16, 4))
    let before = end - size - offset  // bytes that were put in front of a finished zip, which does not count them
    var at = offset + before
    for _ in 0..<entries {
        guard try number(at, 4) == 0x0201_4b50 else { throw damaged }
        let lengths = try (0..<3).map { try number(at + 28 + 2 * $0, 2) }  // of the name, more fields, a comment
        let named = try (0..<lengths[0]).map { UInt8(try number(at + 46 + $0, 1)) }
        if named == Array(name.utf8) {
            let local = try number(at + 42, 4) + before
            guard try number(local, 4) == 0x0403_4b50 else { throw damaged }
            let start = local + 30 + (try number(local + 26, 2)) + (try number(local + 28, 2))
            let count = try number(at + 20, 4)
            guard start + count <= file.count else { throw damaged }
            let packed = [UInt8](file[(file.startIndex + start)..<(file.startIndex + start + count)])
            let content: [UInt8]
            switch try number(at + 10, 2) {
            case 0: content = packed
            case 8: content = try inflated(packed)
            default: throw damaged
            }
            guard Int(checksum(content)) == (try number(at + 16, 4)) else { throw damaged }
            return Data(content)
        }
        at += 46 + lengths.reduce(0, +)
    }
    throw BadModel("not a complete model (it has no \(name)): copy or export it again")
}

/// The bits of a compressed stream, lowest first.
private struct Bits {
    let bytes: [UInt8]
    private var at = 0
    private var held = 0
    private var count = 0

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    mutating func take(_ wanted: Int) throws -> Int {
        while count < wanted {
            guard at < bytes.count else { throw damaged }
            held |= Int(bytes[at]) << count
            (at, count) = (at + 1, count + 8)
        }
        defer { (held, count) = (held >> wanted, count - wanted) }
        return held & ((1 << wanted) - 1)
    }

    mutating func skipToByte() {
        (held, count) = (held >> (count % 8), count - count % 8)
    }
}

/// A canonical Huffman code, from the length of each symbol's bits.
private struct Code {
    private var counts = [Int](repeating: 0, count: 16)
    private let symbols: [Int]

    init(_ lengths: [Int]) {
        for length in lengths { counts[length] += 1 }
        counts[0] = 0
        symbols = lengths.indices.filter { lengths[$0] > 0 }.sorted { (lengths[$0], $0) < (lengths[$1], $1) }
    }

    func next(_ bits: inout Bits) throws -> Int {
        var (code, first, index) = (0, 0, 0)
        for count in counts.dropFirst() {
            code |= try bits.take(1)
            if code - first < count { return symbols[index + code - first] }
            index += count
            (first, code) = ((first + count) << 1, code << 1)
        }
        throw damaged
    }
}

// How many more bits follow the symbol of a length or of a distance, and the least value that it stands for.
private let lengthBits = [Int](repeating: 0, count: 8) + (4..<24).map { $0 / 4 } + [0]
private let distanceBits = [0, 0] + (2..<30).map { $0 / 2 - 1 }
private let lengths = Array(bases(lengthBits.dropLast(), 3).dropLast()) + [258]
private let distances = bases(distanceBits, 1)

private func bases(_ bits: [Int], _ first: Int) -> [Int] {
    bits.reduce(into: [first]) { $0.append($0.last! + 1 << $1) }
}

/// Expand what DEFLATE compressed (RFC 1951).
private func inflated(_ packed: [UInt8]) throws -> [UInt8] {
    var (bits, result, last) = (Bits(packed), [UInt8](), false)
    while !last {
        last = try bits.take(1) == 1
        let kind = try bits.take(2)
        if kind == 0 {
            bits.skipToByte()
            let (count, inverse) = (try bits.take(16), try bits.take(16))
            guard count == inverse ^ 0xFFFF else { throw damaged }
            for _ in 0..<count { result.append(UInt8(try bits.take(8))) }
            continue
        }
        let (near, far) = try codes(kind, &bits)
        while true {
            let symbol = try near.next(&bits)
            if symbol == 256 { break }
            if symbol < 256 {
                result.append(UInt8(symbol))
                continue
            }
            guard symbol < 286 else { throw damaged }
            let length = try lengths[symbol - 257] + bits.take(lengthBits[symbol - 257])
            let place = try far.next(&bits)
            guard place < 30 else { throw damaged }
            let distance = try distances[place] + bits.take(distanceBits[place])
            guard distance <= result.count else { throw damaged }
            for _ in 0..<length { result.append(result[result.count - distance]) }
        }
    }
    return result
}

/// The codes of a block: of bytes and lengths, and of distances. Kind 1 has fixed ones, kind 2 tells them first.
private func codes(_ kind: Int, _ bits: inout Bits) throws -> (Code, Code) {
    func same(_ length: Int, _ count: Int) -> [Int] { [Int](repeating: length, count: count) }
    if kind == 1 { return (Code(same(8, 144) + same(9, 112) + same(7, 24) + same(8, 8)), Code(same(5, 30))) }
    guard kind == 2 else { throw damaged }
    let counts = (257 + (try bits.take(5)), 1 + (try bits.take(5)))
    let told = 4 + (try bits.take(4))
    var short = same(0, 19)
    for place in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15].prefix(told) {
        short[place] = try bits.take(3)
    }
    let code = Code(short)
    var found = [Int]()
    while found.count < counts.0 + counts.1 {
        switch try code.next(&bits) {
        case 16:
            guard let before = found.last else { throw damaged }
            found += same(before, 3 + (try bits.take(2)))
        case 17: found += same(0, 3 + (try bits.take(3)))
        case 18: found += same(0, 11 + (try bits.take(7)))
        case let length: found.append(length)
        }
    }
    guard found.count == counts.0 + counts.1 else { throw damaged }
    return (Code(Array(found.prefix(counts.0))), Code(Array(found.dropFirst(counts.0))))
}

/// CRC-32, by which a zip knows that its content is whole.
private func checksum(_ bytes: [UInt8]) -> UInt32 {
    let table = (0..<UInt32(256)).map { byte in
        (0..<8).reduce(byte) { value, _ in value & 1 == 1 ? 0xEDB8_8320 ^ (value >> 1) : value >> 1 }
    }
    return ~bytes.reduce(~UInt32(0)) { table[Int(($0 ^ UInt32($1)) & 255)] ^ ($0 >> 8) }
}
