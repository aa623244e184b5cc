package faithful_test

const document = "../../docs/faithful.md"

func render2(all []section) string { return "" }
