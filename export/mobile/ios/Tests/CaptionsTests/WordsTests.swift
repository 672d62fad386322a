import XCTest

@testable import Captions

final class WordsTests: XCTestCase {
    private let cases = Fixtures.cases

    func testIdsBecomeTheSentencesOfThePackage() {
        for row in cases.words { XCTAssertEqual(words(row.ids, cases.captioner, cases.vocabulary), row.text) }
    }

    func testTextsBecomeTheIdsOfThePackage() throws {
        for row in cases.tokens {
            XCTAssertEqual(try tokens(row.text, cases.vqa, cases.vocabulary).map(Int.init), row.ids, row.text)
        }
    }

    func testPiecesThatSpellBytesAreJoined() {
        var about = cases.captioner
        about.spelling = About.Spelling(word_end: "")
        XCTAssertEqual(words(cases.spelled.ids, about, cases.spelled.pieces), cases.spelled.text)
        about.spelling = About.Spelling(word_end: "</w>")
        let ended = cases.spelled.pieces.prefix(5) + ["a</w>", "cat", "s</w>"]
        XCTAssertEqual(words([2, 5, 6, 7, 3], about, Array(ended)), "a cats")
    }

    func testTextsThatTheModelCannotReadAreRefused() {
        for text in ["", " \u{200b}\n", "\u{7}", String(repeating: "cat ", count: 4000)] {
            XCTAssertThrowsError(try tokens(text, cases.vqa, cases.vocabulary)) { XCTAssert($0 is BadText) }
        }
        var other = cases.vqa
        other.ownTokenizer = true
        XCTAssertThrowsError(try tokens("a cat", other, cases.vocabulary)) { XCTAssert($0 is BadText) }
    }

    func testLogitsBecomeAnswers() {
        XCTAssertEqual(answer([-1, 2], cases.vqa), "yes")
        XCTAssertEqual(answer([-1, -2], cases.vqa), "no")
        var many = cases.vqa
        many.multi_label = true
        XCTAssertEqual(answer([1, 2], many), "no, yes")
        XCTAssertEqual(answer([-1, -2], many), "nothing")
        many.task = "matcher"
        XCTAssertEqual(answer([2], many), "0.881")
    }
}
