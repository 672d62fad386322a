import XCTest

@testable import Captions

final class AboutTests: XCTestCase {
    private let lines = Data(Fixtures.cases.vocabulary.map { $0 + "\n" }.joined().utf8)

    private func refusal(_ json: Data, _ lines: Data) -> String {
        do {
            _ = try companions(json, lines)
            return "it was taken"
        } catch { return (error as! BadModel).message }
    }

    func testAModelIsRead() throws {
        let (about, vocabulary) = try companions(Fixtures.json("vqa"), lines)
        XCTAssertEqual(vocabulary, Fixtures.cases.vocabulary)
        XCTAssertEqual(about.labels, ["no", "yes"])
        XCTAssertEqual(about.image_shape, [32, 16, 3])
        XCTAssert(about.asks && !about.ownTokenizer)
        XCTAssert(try companions(Fixtures.json("vqa", ["rule": ["kind": "bert"]]), lines).0.ownTokenizer)
    }

    func testAModelOfAnotherKindIsRefused() throws {
        let changes: [(String, Any, String)] = [
            ("format", 2, "format 2, expected 1"), ("task", "generator", "generator, expected one of"),
            ("form", "split", "form split, expected form one"), ("image_shape", [4, 32, 16, 3], "clips"),
        ]
        for (name, value, said) in changes {
            let found = refusal(try Fixtures.json("vqa", [name: value]), lines)
            XCTAssert(found.contains(said), found)
        }
    }

    func testADamagedModelIsRefused() throws {
        XCTAssert(refusal(Data("{".utf8), lines).contains("not a complete model"))
        XCTAssert(refusal(Data(), lines).contains("not a complete model"))
        XCTAssert(refusal(try Fixtures.json("vqa"), Data("a\nb\n".utf8)).contains("2 pieces, expected"))
    }
}
