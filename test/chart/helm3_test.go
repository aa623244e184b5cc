package chart_test

import (
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	engine3 "helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/engine"
)

// Helm 3 makes the same of the chart as Helm 4.
func TestHelm3(t *testing.T) {
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	caps := capabilities(t)
	older := chartutil.DefaultCapabilities.Copy()
	version, err := chartutil.ParseKubeVersion(caps.KubeVersion.Version)
	if err != nil {
		t.Fatal(err)
	}
	older.KubeVersion = *version
	for name, values := range scenarios(t) {
		t.Run(name, func(t *testing.T) {
			rendered, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "rebound", Namespace: "somewhere", IsInstall: true, Revision: 1}, older)
			if err != nil {
				t.Fatal(err)
			}
			got, err := engine3.Engine{Strict: true}.Render(c, rendered)
			if err != nil {
				t.Fatal(err)
			}
			again, err := util.ToRenderValues(load(t), values, common.ReleaseOptions{Name: "rebound", Namespace: "somewhere", IsInstall: true, Revision: 1}, caps)
			if err != nil {
				t.Fatal(err)
			}
			want, err := engine.Engine{Strict: true}.RenderWithContext(t.Context(), load(t), again)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) {
				t.Errorf("got %d files, want %d", len(got), len(want))
			}
			for path, text := range want {
				if got[path] != text {
					t.Errorf("%s: got\n%s\nwant\n%s", path, got[path], text)
				}
			}
		})
	}
}
