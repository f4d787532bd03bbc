// Shows the volume that stands in this page with NiiVue, which came before this script.
(async () => {
  const place = document.getElementById("place");
  const canvas = document.querySelector("canvas");
  const said = document.getElementById("said");
  try {
    const text = document.getElementById("nifti").textContent;
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const nv = new niivue.Niivue({ dragAndDropEnabled: false, show3Dcrosshair: true, isColorbar: true });
    nv.onLocationChange = (where) => { place.textContent = where.string; };
    await nv.attachToCanvas(canvas);
    await nv.loadFromArrayBuffer(bytes.buffer, "volume.nii.gz");
    const { window: [low, high], fallback } = JSON.parse(document.getElementById("facts").textContent);
    Object.assign(nv.volumes[0], { cal_min: low, cal_max: high });
    nv.updateGLVolume();
    if (fallback.length) {
      said.textContent = `Classical image, not the model's, in slice ${fallback.join(", ")}.`;
    }
    const buttons = document.querySelectorAll("#views button");
    const views = { all: "sliceTypeMultiplanar", axial: "sliceTypeAxial", coronal: "sliceTypeCoronal",
      sagittal: "sliceTypeSagittal", render: "sliceTypeRender" };
    for (const button of buttons) {
      button.addEventListener("click", () => {
        nv.setSliceType(nv[views[button.value]]);
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      });
    }
    document.body.dataset.state = "shown";
  } catch (err) {
    said.textContent = `The volume cannot be shown (${err.message}); WebGL 2 is needed. Open the NIfTI file elsewhere.`;
    document.body.dataset.state = "failed";
  }
})();
