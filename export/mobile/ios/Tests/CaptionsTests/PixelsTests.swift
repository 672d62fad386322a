import XCTest

@testable import Captions

final class PixelsTests: XCTestCase {
    private let cases = Fixtures.cases

    func testEveryRuleGivesThePixelsOfThePackage() throws {
        XCTAssertGreaterThanOrEqual(cases.fits.count, 48)
        for fit in cases.fits {
            let found = try fitted(cases.picture(fit.picture), cases.shape[1], cases.shape[0], fit.resize)
            XCTAssertEqual(found.count, fit.pixels.count)
            let worst = zip(found, fit.pixels).map { abs(Int($0) - Int($1)) }.max()!
            XCTAssertLessThanOrEqual(worst, 2, "\(fit.resize) of picture \(fit.picture)")
        }
    }

    func testAnUnknownRuleIsRefused() {
        XCTAssertThrowsError(try fitted(cases.picture(0), 1, 1, "squeeze")) { error in
            XCTAssert((error as! BadModel).message.contains("squeeze"))
        }
    }

    func testPicturesAreTurnedUpright() {
        let numbers: [UInt8] = [1, 2, 3, 4, 5, 6]
        let picture = Picture(rgba: numbers.flatMap { [$0, $0 + 10, $0 + 20, 255] }, width: 3, height: 2)
        XCTAssertEqual(cases.turns.count, 8)
        for turn in cases.turns {
            let found = upright(picture, turn.orientation)
            XCTAssertEqual([found.width, found.height], [turn.width, 6 / turn.width])
            XCTAssertEqual(found.rgba, turn.numbers.flatMap { [$0, $0 + 10, $0 + 20, 255] })
        }
    }
}
