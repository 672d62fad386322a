"""The projects of export/mobile: their fixtures are the package's, their files fit together, their sources compile."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import plistlib
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import keras
import pytest
from paths import PROGRAMS, ROOT, SUPPORT

ANDROID, IOS = PROGRAMS / "mobile/android", PROGRAMS / "mobile/ios"
MAIN = ANDROID / "app/src/main"
KOTLIN = sorted(MAIN.rglob("*.kt"))
PURE = [path for path in KOTLIN if path.stem in ("Pixels", "Words", "Companions")]
UNIT_TESTS = sorted((ANDROID / "app/src/test").rglob("*.kt"))
SWIFT = sorted(path for path in IOS.rglob("*.swift") if ".build" not in path.parts)
NAME = "{http://schemas.android.com/apk/res/android}name"
# Of Debian's junit4, libhamcrest-java and libandroid-json-org-java, and, from Debian 11, libandroid-23-java.
JARS = Path(os.environ.get("JARS", "/usr/share/java"))


def lines_of(paths: list[Path]) -> str:
    return "\n".join(path.read_text("utf-8") for path in paths)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made by TensorFlow")
@pytest.mark.filterwarnings("ignore:1 of 11 texts were cut")
def test_the_fixtures_are_what_the_package_computes():
    spec = importlib.util.spec_from_file_location("phone_fixtures", ROOT / "tools/phone_fixtures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = json.loads(module.FILE.read_text("utf-8"))
    computed = json.loads(json.dumps(module.cases()))
    assert stored.keys() == computed.keys()
    unpacked = [[members(zip["file"]) for zip in one.pop("zips")] for one in (stored, computed)]
    assert unpacked[0] == unpacked[1]  # their bytes depend on zlib's version
    for name, value in computed.items():
        assert stored[name] == value, f"{name}: run python tools/phone_fixtures.py"


def members(file: str) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(file))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def resources() -> dict[str, set[str]]:
    """Return the names that the Android project's resources define, by kind, as its class R has them."""
    found: dict[str, set[str]] = {"id": set()}
    for path in sorted((MAIN / "res").rglob("*.xml")):
        root = ElementTree.parse(path).getroot()
        if root.tag == "resources":
            for one in root:
                found.setdefault(one.tag, set()).add(one.get("name"))
        else:
            found.setdefault(path.parent.name, set()).add(path.stem)
        values = [value for one in root.iter() for value in one.attrib.values()]
        found["id"] |= {value.removeprefix("@+id/") for value in values if value.startswith("@+id/")}
    return found


def test_the_android_project_names_what_it_has():
    defined, source = resources(), lines_of(KOTLIN)
    manifest = ElementTree.parse(MAIN / "AndroidManifest.xml")
    used = set(re.findall(r"\bR\.(\w+)\.(\w+)", source))
    xml = lines_of([MAIN / "AndroidManifest.xml", *sorted((MAIN / "res").rglob("*.xml"))])
    used |= set(re.findall(r'"@(\w+)/(\w+)"', xml))
    assert used >= {("layout", "screen"), ("id", "take"), ("string", "no_camera"), ("style", "Screen")}
    for kind, name in used:
        assert name in defined[kind], f"{kind} {name} is used and not defined"
    for kind in ("string", "id", "layout"):
        assert {name for found, name in used if found == kind} == defined[kind], f"a {kind} that nothing uses"
    build = (ANDROID / "app/build.gradle.kts").read_text("utf-8")
    package = re.search(r'namespace = "(.+)"', build)[1]
    for activity in manifest.iter("activity"):
        path = MAIN / "kotlin" / package.replace(".", "/") / f"{activity.get(NAME).removeprefix('.')}.kt"
        assert f"class {path.stem} " in path.read_text("utf-8")
    for path in [*KOTLIN, *UNIT_TESTS]:
        assert f"package {package}\n" in path.read_text("utf-8"), path
    catalog = (ANDROID / "gradle/libs.versions.toml").read_text("utf-8")
    aliases = {alias.replace("-", ".") for alias in re.findall(r"^([\w-]+) = \{ (?:module|id)", catalog, re.M)}
    asked = {name.removeprefix("plugins.") for name in re.findall(r"\(libs\.([\w.]+)\)", build)}
    assert asked == aliases
    module = re.search(r'include\(":(\w+)"\)', (ANDROID / "settings.gradle.kts").read_text("utf-8"))[1]
    assert (ANDROID / module / "build.gradle.kts").is_file()
    assert "android.permission.CAMERA" in {one.get(NAME) for one in manifest.iter("uses-permission")}


def test_androids_packager_takes_the_resources(tmp_path):
    framework = Path("/usr/share/android-framework-res/framework-res.apk")  # of Debian's android-framework-res
    if shutil.which("aapt") is None or not framework.exists():
        pytest.skip("the Android app's resources were not packed: there is no aapt or android-framework-res here")
    manifest = (MAIN / "AndroidManifest.xml").read_text("utf-8")  # Gradle adds the package
    (tmp_path / "AndroidManifest.xml").write_text(manifest.replace("<manifest ", '<manifest package="vtx.captions" '))
    command = ["aapt", "package", "-M", tmp_path / "AndroidManifest.xml", "-S", MAIN / "res", "-I", framework]
    run = subprocess.run([*command, "-F", tmp_path / "all.apk"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    run = subprocess.run(["aapt", "dump", "badging", tmp_path / "all.apk"], capture_output=True, text=True)
    assert "launchable-activity: name='vtx.captions.MainActivity'" in run.stdout
    assert "uses-implied-feature: name='android.hardware.camera'" not in run.stdout, (
        "phones without a camera are left out"
    )


def test_texts_of_the_screen_take_what_the_program_gives():
    texts = {one.get("name"): one.text for one in ElementTree.parse(MAIN / "res/values/strings.xml").getroot()}
    assert texts["said"].count("%") == 2
    taking = {name for name, one in texts.items() if "%1$s" in one}
    assert taking == {"said", "bad_model", "bad_copy", "bad_picture", "bad_text", "camera_failed"}
    for name in taking:
        assert re.search(rf"R\.string\.{name}, \w", lines_of(KOTLIN)), f"{name} takes a reason, and none is given"


def test_the_ios_project_names_what_it_has():
    yaml = pytest.importorskip("yaml", reason="project.yml was not read: pip install pyyaml")
    project = yaml.safe_load((IOS / "App/project.yml").read_text("utf-8"))
    ((target, app),) = project["targets"].items()
    needed = [one["path"] for one in app["sources"] if not one.get("optional")]
    needed += [app["settings"]["base"]["INFOPLIST_FILE"]]
    assert all((IOS / "App" / path).exists() for path in needed)
    assert (IOS / "App" / project["packages"]["Captions"]["path"] / "Package.swift").is_file()
    assert {one["package"] for one in app["dependencies"]} == set(project["packages"])
    podfile = (IOS / "App/Podfile").read_text("utf-8")
    assert f"target '{target}'" in podfile
    assert f"project '{project['name']}.xcodeproj'" in podfile
    assert project["options"]["deploymentTarget"]["iOS"] in podfile
    info = plistlib.loads((IOS / "App/Info.plist").read_bytes())
    assert "pictures" in info["NSCameraUsageDescription"]
    manifest = (IOS / "Package.swift").read_text("utf-8")
    for folder, name in re.findall(r'\.(target|testTarget)\(name: "(\w+)"', manifest):
        assert any((IOS / ("Sources" if folder == "target" else "Tests") / name).glob("*.swift"))
    ours = {"Captions", "TensorFlowLite"}
    imported = set(re.findall(r"^import (\w+)", lines_of(sorted((IOS / "App").rglob("*.swift"))), re.M))
    assert ours <= imported
    pure = lines_of(sorted((IOS / "Sources").rglob("*.swift")))
    assert set(re.findall(r"^import (\w+)", pure, re.M)) == {"Foundation"}, "these also run where there is no phone"


@pytest.mark.parametrize(
    ("language", "paths"), [("kotlin", [*KOTLIN, *UNIT_TESTS, *ANDROID.rglob("*.kts")]), ("swift", SWIFT)]
)
def test_the_sources_parse(language, paths):
    parser = pytest.importorskip("tree_sitter", reason=f"no {language} was parsed: pip install tree-sitter")
    reason = f"no {language} was parsed: pip install tree-sitter-{language}"
    grammar = pytest.importorskip(f"tree_sitter_{language}", reason=reason)
    assert len(paths) >= 10
    for path in paths:
        tree = parser.Parser(parser.Language(grammar.language())).parse(path.read_bytes())
        assert not tree.root_node.has_error, path


def compiled(jar: Path, sources: list[Path], *jars: Path, name: str) -> None:
    """Compile Kotlin, or skip the test and say of what."""
    if shutil.which("kotlinc") is None:
        pytest.skip(f"{name} was not compiled: there is no kotlinc here")
    missing = [path.name for path in jars if not path.exists()]
    if missing:
        pytest.skip(f"{name} was not compiled: {JARS} has no {', '.join(missing)}")
    command = ["kotlinc", *sources, "-d", jar, "-include-runtime", "-nowarn"]
    run = subprocess.run([*command, "-cp", ":".join(map(str, jars))], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_the_unit_tests_of_the_android_project_pass(tmp_path):
    jars = [JARS / name for name in ("junit4.jar", "hamcrest-all.jar", "json-android.jar")]
    jar = tmp_path / "tests.jar"
    compiled(jar, [*PURE, *UNIT_TESTS], *jars, name="the unit tests of export/mobile/android")
    classes = [f"vtx.captions.{path.stem}" for path in UNIT_TESTS if path.stem.endswith("Test")]
    command = ["java", f"-Dfixtures={PROGRAMS / 'mobile/fixtures'}", "-cp", ":".join(map(str, [jar, *jars]))]
    run = subprocess.run([*command, "org.junit.runner.JUnitCore", *classes], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert len(classes) == 3
    assert int(re.search(r"OK \((\d+) tests\)", run.stdout)[1]) == lines_of(UNIT_TESTS).count("@Test")


@pytest.mark.slow
def test_the_android_app_compiles(tmp_path):
    """Against Android itself and, in place of AndroidX and LiteRT, the part of them that it uses."""
    if shutil.which("kotlinc") is not None:
        run = subprocess.run(["kotlinc", "-version"], capture_output=True, text=True)
        if "kotlinc-jvm 1.3" in run.stderr:
            pytest.skip("the Android app was not compiled: this kotlinc is older than Android's")
    lines = ["package vtx.captions", "object R {"]
    for kind, names in resources().items():
        lines += [f"object {kind} {{", *(f"const val {name} = {i}" for i, name in enumerate(sorted(names))), "}"]
    (tmp_path / "R.kt").write_text("\n".join([*lines, "}"]))
    stubs = sorted((SUPPORT / "android").glob("*.kt"))
    sources = [*KOTLIN, tmp_path / "R.kt", *stubs]
    compiled(tmp_path / "app.jar", sources, JARS / "com.android.android-23.jar", name="the Android app")


@pytest.mark.slow
def test_the_tests_of_the_ios_package_pass(tmp_path):
    """And Captioner.swift compiles, against the part of LiteRT that it uses."""
    if shutil.which("swift") is None:
        pytest.skip("the tests of export/mobile/ios were not run: there is no swift here")
    ignored = shutil.ignore_patterns(".build", "model.tflite")
    shutil.copytree(PROGRAMS / "mobile/ios", tmp_path / "ios", ignore=ignored)
    shutil.copytree(PROGRAMS / "mobile/fixtures", tmp_path / "fixtures")
    moved = {"TensorFlowLite": SUPPORT / "ios/TensorFlowLite.swift", "App": IOS / "App/Sources/Captioner.swift"}
    for name, path in moved.items():
        (tmp_path / "ios/Sources" / name).mkdir()
        shutil.copy(path, tmp_path / "ios/Sources" / name)
    more = '.target(name: "TensorFlowLite"), .target(name: "App", dependencies: ["Captions", "TensorFlowLite"]),'
    manifest = (IOS / "Package.swift").read_text("utf-8")
    (tmp_path / "ios/Package.swift").write_text(manifest.replace("targets: [\n", f"targets: [\n{more}\n"))
    for command in ("build", "test"):
        run = subprocess.run(["swift", command], cwd=tmp_path / "ios", capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
    count = lines_of(SWIFT).count("    func test")
    assert f"Executed {count} tests, with 0 failures" in run.stdout + run.stderr
