import XCTest

@testable import Captions

final class ZipTests: XCTestCase {
    private let cases = Fixtures.cases

    func testTheZipAtTheEndOfAFileIsRead() throws {
        for zip in cases.zips {
            let json = try unzipped("model.json", from: zip.file)
            let (about, vocabulary) = try companions(json, unzipped("vocabulary.txt", from: zip.file))
            XCTAssertEqual(vocabulary, cases.vocabulary, zip.method)
            XCTAssertEqual(about.join_rules, cases.captioner.join_rules, zip.method)
            let pushed = Data(repeating: 7, count: 99) + zip.file  // offsets that are too small by 99
            XCTAssertEqual(try unzipped("model.json", from: pushed), json, zip.method)
        }
        XCTAssertEqual(cases.zips.map(\.method), ["stored", "deflated", "fixed codes"])
    }

    func testADamagedZipIsRefused() {
        for zip in cases.zips {
            for cut in stride(from: 0, to: zip.file.count, by: 37) {
                XCTAssertThrowsError(try unzipped("model.json", from: zip.file.prefix(cut))) { XCTAssert($0 is BadModel) }
            }
            XCTAssertThrowsError(try unzipped("no such file", from: zip.file)) { XCTAssert($0 is BadModel) }
        }
    }

    func testAChangedByteIsNoticed() throws {
        for zip in cases.zips {
            let whole = try unzipped("vocabulary.txt", from: zip.file)
            for at in stride(from: 0, to: zip.file.count, by: 11) {
                var changed = zip.file
                changed[at] ^= 16
                if let found = try? unzipped("vocabulary.txt", from: changed) { XCTAssertEqual(found, whole, "\(at)") }
            }
        }
    }
}
