plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "vtx.captions"
    compileSdk = 36

    defaultConfig {
        applicationId = "vtx.captions"
        minSdk = 24
        targetSdk = 36
        versionCode = 1
        versionName = "1.0"
    }

    androidResources { noCompress += "tflite" }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    testOptions { unitTests.all { it.systemProperty("fixtures", rootProject.file("../fixtures").path) } }
}

kotlin { jvmToolchain(17) }

dependencies {
    implementation(libs.activity)
    implementation(libs.camera.camera2)
    implementation(libs.camera.lifecycle)
    implementation(libs.camera.view)
    implementation(libs.core)
    implementation(libs.exifinterface)
    implementation(libs.lifecycle.livedata)
    implementation(libs.lifecycle.viewmodel)
    implementation(libs.litert) // its interpreter keeps the package name org.tensorflow.lite
    testImplementation(libs.junit)
    testImplementation(libs.json) // Android's own is empty in unit tests
}
